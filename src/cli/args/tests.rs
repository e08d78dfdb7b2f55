//! The command line by itself: what parses, what its help says, which code a mistake ends with.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn examples(command: &clap::Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    help.lines().filter(|l| l.starts_with("  blockremote")).map(|l| l.trim().to_owned()).collect()
}

fn visit(path: &str, command: &clap::Command, check: &mut dyn FnMut(&str, &clap::Command)) {
    check(path, command);
    for sub in command.get_subcommands() {
        visit(&format!("{path} {}", sub.get_name()), sub, check);
    }
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

/// An example that does not work is worse than none.
#[test]
fn every_command_says_what_it_does_and_has_an_example_that_parses() {
    let mut seen = 0;
    visit("blockremote", &Cli::command(), &mut |path, command| {
        assert!(command.get_about().is_some(), "{path} says nothing about itself");
        let examples = examples(command);
        assert!(!examples.is_empty(), "{path} has no example");
        for example in examples {
            assert!(example.starts_with(path), "{path}: {example}");
            if let Err(e) = parse(&example) {
                panic!("{example}: {e}");
            }
            seen += 1;
        }
    });
    assert!(seen >= 20, "{seen} examples");
}

#[test]
fn every_argument_is_explained() {
    visit("blockremote", &Cli::command(), &mut |path, command| {
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{path} {}", arg.get_id());
        }
    });
}

#[test]
fn no_command_means_serve() {
    let cli = parse("blockremote").unwrap();
    assert!(matches!(cli.command_or_serve(), Command::Serve(s) if s.listen.is_none()));
    assert!(cli.flags().is_empty());
}

#[test]
fn flags_set_known_keys_and_global_ones_stand_on_either_side() {
    let line = "blockremote --data d serve --certs c --listen a:1 --grpc-listen b:2 --internal-listen c:3 --config f";
    let cli = parse(line).unwrap();
    assert_eq!(cli.config, Some(PathBuf::from("f")));
    let expect =
        [("data", "d"), ("certs", "c"), ("http.listen", "a:1"), ("grpc.listen", "b:2"), ("internal.listen", "c:3")];
    assert_eq!(cli.flags(), expect.map(|(k, v)| (k, v.to_owned())));
    for (key, _) in cli.flags() {
        assert!(config::Key::find(key).is_some(), "{key}");
    }
}

#[test]
fn attacks_come_in_turn_by_default_and_as_listed_otherwise() {
    let attacks = |line: &str| match parse(line).unwrap().command {
        Some(Command::Agent(agent)) => agent.attack,
        other => panic!("{other:?}"),
    };
    assert_eq!(attacks("blockremote agent"), [AttackKind::Still, AttackKind::Emulator, AttackKind::Overlay]);
    assert_eq!(attacks("blockremote agent --attack overlay,still"), [AttackKind::Overlay, AttackKind::Still]);
    assert_eq!(attacks("blockremote agent --attack overlay --attack still"), [AttackKind::Overlay, AttackKind::Still]);
}

#[test]
fn wrong_arguments_end_with_the_usage_code() {
    for line in [
        "blockremote nonsense",
        "blockremote restore",
        "blockremote init extra",
        "blockremote agent --fleet 0",
        "blockremote agent --rate-hz NaN",
        "blockremote agent --rate-hz 0",
        "blockremote agent --prefix a/b",
        "blockremote agent --attack magic",
        "blockremote agent --token a --token-file b",
        "blockremote admin token enroll --days 0",
        "blockremote bench load --readings 101",
        "blockremote audit",
    ] {
        let Err(e) = parse(line) else { panic!("{line} was accepted") };
        assert_eq!(e.exit_code(), i32::from(exit::USAGE), "{line}");
    }
}

#[test]
fn the_help_tells_exit_codes_and_every_key() {
    let main = Cli::command().render_help().to_string();
    for code in ["0 done", "1 failed", "2 usage", "3 refused"] {
        assert!(main.contains(code), "{code}");
    }
    let mut command = Cli::command();
    let long = command.find_subcommand_mut("config").unwrap().render_long_help().to_string();
    for key in config::KEYS {
        assert!(long.contains(key.name), "{}", key.name);
    }
}
