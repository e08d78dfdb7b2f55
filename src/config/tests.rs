//! What the configuration takes, refuses and says.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::net::IpAddr;
use std::path::PathBuf;

use super::*;

struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }
    fn file(&self, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join("config.toml");
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn load(file: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Loaded, ConfigErrors> {
    load_bytes(file.as_bytes(), env, flags)
}

fn load_bytes(file: &[u8], env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Loaded, ConfigErrors> {
    let place = Folder::new();
    Config::load(&Sources {
        config_file: Some(place.file(file)),
        env: env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        flags: flags.iter().map(|(n, v)| (*n, (*v).to_owned())).collect(),
        defaults_search: &[],
    })
}

/// What is said about a wrong file, without the file's own path, one problem a line.
fn refusal_of(file: &str) -> String {
    refusal(load(file, &[], &[]))
}

fn refusal(result: Result<Loaded, ConfigErrors>) -> String {
    let Err(errors) = result else { panic!("was accepted") };
    let text = errors.to_string();
    text.lines().map(|l| l.split_once("config.toml:").map_or(l, |(_, rest)| rest)).collect::<Vec<_>>().join("\n")
}

/// A value for each key that is allowed and is not its default.
fn other_value(key: &Key) -> String {
    let default = key.default.unwrap_or("");
    match key.kind {
        Kind::Address(_) => "127.0.0.1:0".to_owned(),
        Kind::Integer { min, max, .. } => if default == min.to_string() { max } else { min }.to_string(),
        Kind::Switch(_) => (default != "true").to_string(),
        Kind::Choice(words) => words.iter().find(|(w, _)| *w != default).unwrap().0.to_owned(),
        Kind::Text(_) | Kind::Tenant(_) | Kind::Path(_) => "other".to_owned(),
        Kind::Secret { min, .. } => "s".repeat(min),
        Kind::Secrets(_) => "gateway:0123456789abcdef".to_owned(),
        Kind::Networks(_) => "10.0.0.0/8".to_owned(),
        Kind::Recipients(_) => format!("age1{}", "q".repeat(58)),
        Kind::Origins(_) => "https://a.example".to_owned(),
        Kind::Names(_) => "a.example".to_owned(),
    }
}

#[test]
fn with_nothing_given_every_key_is_at_its_default() {
    let loaded = Config::load(&Sources::default()).unwrap();
    assert_eq!(format!("{:?}", loaded.config), format!("{:?}", Config::default()));
    assert!(loaded.file.is_none() && loaded.notes.is_empty());
    assert_eq!(loaded.rows.len(), KEYS.len());
    assert!(loaded.rows.iter().all(|r| r.place == Place::Default));
    let c = loaded.config;
    assert_eq!(c.http.listen, "0.0.0.0:8443".parse().unwrap());
    assert_eq!(c.grpc.listen, "0.0.0.0:8444".parse().unwrap());
    assert_eq!(c.internal.listen, "127.0.0.1:9464".parse().unwrap());
    assert_eq!(c.tokens.access_ttl, Duration::from_secs(900));
    assert_eq!(c.tokens.refresh_absolute, Duration::from_secs(30 * 86_400));
    assert_eq!(c.store.cache_bytes, 64 << 20);
    assert_eq!((c.limits.enroll_per_minute, c.anonymous.limit, c.engine.threshold), (6000, 100, 40));
    assert!(c.billing.webhook_secret.is_none() && c.tls.own_files().is_none());
}

#[test]
fn every_default_is_a_value_that_its_key_accepts() {
    for key in KEYS {
        if let Some(word) = key.default {
            let accepted = key.kind.accept(&key.kind.read_word(word), &mut Config::blank());
            assert_eq!(accepted, Ok(()), "{}", key.name);
        }
    }
}

/// A setter that writes to its neighbour's field, or to none, is the slip that a long table invites.
#[test]
fn every_key_reaches_a_field_of_its_own_from_each_source() {
    let leaves = |c: &Config| -> Vec<String> { format!("{c:#?}").lines().map(ToOwned::to_owned).collect() };
    let mut seen: Vec<(&str, Vec<usize>)> = Vec::new();
    for key in KEYS {
        let mut changed = Config::default();
        key.kind.accept(&key.kind.read_word(&other_value(key)), &mut changed).unwrap();
        // Optional and list values spread over more lines, so it is the first line that differs which names the field.
        let (before, after) = (leaves(&Config::default()), leaves(&changed));
        let at =
            before.iter().zip(&after).position(|(b, a)| b != a).unwrap_or_else(|| panic!("{} sets nothing", key.name));
        let leaf = key.name.rsplit('.').next().unwrap();
        let field = after[at].trim().split(':').next().unwrap();
        let bare = |s: &str| {
            ["_ms", "_us", "_s", "_hours", "_days", "_mib", "_bytes"]
                .iter()
                .fold(s.to_owned(), |s, u| s.strip_suffix(u).unwrap_or(&s).to_owned())
        };
        assert_eq!(bare(field), bare(leaf), "{} sets another key's field", key.name);
        assert!(!seen.iter().any(|(_, lines)| lines.contains(&at)), "{} sets a field that another key sets", key.name);
        seen.push((key.name, vec![at]));

        // Alone, `tls.key` and the like contradict another setting; what counts here is that the source is heard.
        let partner = if key.name == "tls.key" { "tls.certificate" } else { "tls.key" };
        let pair = if key.name.starts_with("tls.") { vec![(partner, "other")] } else { vec![] };
        let flags: Vec<_> = pair.iter().copied().chain([(key.name, other_value(key).leak() as &str)]).collect();
        let alone = [
            "tls.min_version",
            "tls.names",
            "tls.certificate_lifetime_days",
            "tls.client_certificates",
            "tokens.refresh_absolute_days",
        ];
        if !alone.contains(&key.name) {
            assert!(load("", &[], &flags).is_ok(), "{} by flag", key.name);
        }
        let variable = key.variable();
        assert!(variable.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{variable}");
        let named = load("", &[(&variable, "\u{0}")], &[]);
        assert!(refusal(named).contains(&variable), "{variable} is not heard");
    }
}

#[test]
fn names_are_unique_sections_stay_together_and_every_key_is_documented() {
    let mut sections: Vec<&str> = Vec::new();
    for (i, key) in KEYS.iter().enumerate() {
        assert!(!KEYS[..i].iter().any(|k| k.name == key.name), "{} stands twice", key.name);
        let section = key.name.split_once('.').map_or("", |(s, _)| s);
        if sections.last() != Some(&section) {
            assert!(!sections.contains(&section), "[{section}] is in two places");
            sections.push(section);
        }
        assert!(key.doc.ends_with('.') && key.doc.len() > 10, "{}", key.name);
        assert!(reference().contains(&format!("{}\n    {}", key.name, key.doc)));
    }
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let file = "\n[http]\nlisten = \"127.0.0.1:1\"\n";
    let env = [("BLOCKREMOTE_HTTP__LISTEN", "127.0.0.1:2"), ("PATH", "/bin")];
    for (file, env, flags, port, from) in [
        ("", &[][..], &[][..], 8443, "default"),
        (file, &[], &[], 1, "config.toml:3"),
        (file, &env, &[], 2, "BLOCKREMOTE_HTTP__LISTEN"),
        (file, &env, &[("http.listen", "127.0.0.1:3")], 3, "command line"),
        ("", &env, &[], 2, "BLOCKREMOTE_HTTP__LISTEN"),
        (file, &[], &[("http.listen", "127.0.0.1:3")], 3, "command line"),
    ] {
        let loaded = load(file, env, flags).unwrap();
        assert_eq!(loaded.config.http.listen.port(), port);
        let row = loaded.rows.iter().find(|r| r.key.name == "http.listen").unwrap();
        assert!(row.place.to_string().ends_with(from), "{} should end with {from}", row.place);
        assert!(row.shown().contains(&format!(":{port}")));
    }
}

#[test]
fn a_full_file_becomes_a_typed_configuration() {
    let c = load(
        r#"
        data = "/var/lib/x.redb"
        anonymous = { limiter = "off", limit = 5, window_s = 60 }
        http.trusted_proxies = ["10.0.0.0/8", "::1"]
        http.allowed_origins = ["HTTPS://Console.Example:443", "http://[::1]:8080", "https://10.0.0.1:8443"]
        [tls]
        min_version = "1.2"
        client_certificates = "optional"
        names = ["Box.Example", "192.0.2.7"]
        certificate = "/c.pem"
        key = "/k.pem"
        [billing]
        webhook_secret = "0123456789abcdef"
        paywall = "off"
        [store]
        two_phase_commit = false
        cache_mib = 0x10
        [log]
        level = "debug"
        format = "json"
        "#,
        &[("BLOCKREMOTE_TLS__NAMES", " a.example , 192.0.2.8 "), ("BLOCKREMOTE_SEALING_KEY", "not ours to read")],
        &[],
    )
    .unwrap()
    .config;
    assert_eq!(c.paths.data, PathBuf::from("/var/lib/x.redb"));
    assert_eq!((c.anonymous.limiter, c.anonymous.limit, c.anonymous.window), (false, 5, Duration::from_secs(60)));
    assert_eq!(c.http.allowed_origins, ["https://console.example", "http://[::1]:8080", "https://10.0.0.1:8443"]);
    assert_eq!(
        c.tls.names,
        [SubjectName::Dns("a.example".to_owned()), SubjectName::Address("192.0.2.8".parse::<IpAddr>().unwrap())]
    );
    assert_eq!(c.tls.own_files(), Some((Path::new("/c.pem"), Path::new("/k.pem"))));
    assert_eq!(c.billing.webhook_secret.unwrap().expose(), b"0123456789abcdef");
    assert_eq!((c.billing.paywall, c.tls.min_version), (Paywall::Off, TlsVersion::V1_2));
    assert_eq!(c.tls.client_certificates, ClientCertificates::Optional);
    assert_eq!((c.store.two_phase_commit, c.store.cache_bytes), (false, 16 << 20));
    assert_eq!((c.log.level, c.log.format), (LogLevel::Debug, LogFormat::Json));
}

#[test]
fn a_refusal_names_line_key_value_and_what_is_allowed() {
    for (file, expect) in [
        ("\n\n[devices]\nmax = 0", "4: devices.max = 0 is not acceptable: allowed is a whole number from 1 to 1000000"),
        ("devices.max = -1", "1: devices.max = -1 is not acceptable: allowed is a whole number from 1 to 1000000"),
        ("devices.max = 4294967296", "1: devices.max = 4294967296 is not"),
        ("devices.max = 99999999999999999999999999999999999999999999", "1: devices.max = a very large number is not"),
        (
            "devices.max = 1.5",
            "1: devices.max = a number with a fraction is not acceptable: it is of another type; allowed is",
        ),
        ("devices.max = \"10\"", "1: devices.max = \"10\" is not acceptable: allowed is a whole number"),
        ("store.quick_repair = \"yes\"", "1: store.quick_repair = \"yes\" is not acceptable: allowed is true or false"),
        ("log.level = \"verbose\"", "allowed is one of error, warn, info, debug, trace"),
        ("log.level = \"INFO\"", "1: log.level = \"INFO\" is not acceptable"),
        (
            "http.listen = \"localhost\"",
            "1: http.listen = \"localhost\" is not acceptable: allowed is an address with a port",
        ),
        ("http.listen = 8443", "1: http.listen = 8443 is not acceptable"),
        ("http.trusted_proxies = [\"10.0.0.1/8\"]", "has bits behind its prefix"),
        ("http.trusted_proxies = \"10.0.0.1\"", "put it into brackets"),
        ("http.trusted_proxies = [1]", "a list that does not hold texts only"),
        ("http.allowed_origins = [\"*\"]", "\"*\" is not an origin"),
        ("tls.names = [\"*.example\"]", "neither a host name nor an address"),
        ("data = \"\"", "it is empty"),
        ("data = 2026-01-01", "data = a time is not"),
        ("tokens.issuer = \"a b\"", "without spaces"),
        ("enrollment.open_tenant = \"../x\"", "a tenant's name or id"),
        ("http = 1", "1: http is a section: write [http] on a line of its own"),
        ("[http.listen]\nx = 1", "1: http.listen = a table is not acceptable"),
    ] {
        let said = refusal_of(file);
        assert!(said.contains(expect), "{file:?} should say {expect:?} and says {said:?}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn an_unknown_key_is_refused_and_the_nearest_one_suggested() {
    for (file, expect) in [
        ("[http]\nlisen = \"x\"", "2: http.lisen is not a known key; did you mean http.listen?"),
        ("[htpp]\nlisten = \"x\"", "2: htpp.listen is not a known key; did you mean http.listen?"),
        ("loglevel = \"info\"", "1: loglevel is not a known key; did you mean log.level?"),
        ("threshold = 50", "1: threshold is not a known key; did you mean engine.threshold?"),
        ("[completely_else]", "1: completely_else is not a known key; see blockremote config --help"),
        ("\"http.listen\" = 1\nx=2", "2: x is not a known key"),
        ("\"\\u001b[31m\" = 1", "1: \\u{1b}[31m is not a known key"),
    ] {
        let said = refusal_of(file);
        assert!(said.contains(expect), "{file:?} should say {expect:?} and says {said:?}");
    }
    for (name, expect) in [
        (
            "BLOCKREMOTE_HTTP__LISEN",
            "BLOCKREMOTE_HTTP__LISEN: no key has this variable; did you mean BLOCKREMOTE_HTTP__LISTEN?",
        ),
        ("BLOCKREMOTE_HTTP_LISTEN", "did you mean BLOCKREMOTE_HTTP__LISTEN?"),
        ("BLOCKREMOTE_http__listen", "did you mean BLOCKREMOTE_HTTP__LISTEN?"),
        ("BLOCKREMOTE_", "no key has this variable; see"),
    ] {
        let said = refusal(load("", &[(name, "x")], &[]));
        assert!(said.contains(expect), "{said}");
    }
    assert!(load("", &[("BLOCKREMOTEX", "1"), ("BLOCKREMOTE", "1"), ("blockremote_x", "1")], &[]).is_ok());
    assert!(refusal(load("", &[], &[("no.such", "1")])).contains("no.such is not a known key"));
}

#[test]
fn all_problems_are_reported_together_from_top_to_bottom() {
    let said = refusal(load(
        "nonsense = 1\n[log]\nlevel = 1\nformat = 2\n[devices]\nmax = 0\n",
        &[("BLOCKREMOTE_ENGINE__THRESHOLD", "61"), ("BLOCKREMOTE_X", "")],
        &[("http.listen", "x")],
    ));
    let starts: Vec<&str> = said.lines().map(|l| l.split(": ").next().unwrap()).collect();
    assert_eq!(
        starts,
        ["1", "3", "4", "6", "BLOCKREMOTE_ENGINE__THRESHOLD", "BLOCKREMOTE_X", "command line"],
        "{said}"
    );
}

/// A wrong line that a variable hides today would stop the appliance on the day the variable goes.
#[test]
fn a_wrong_value_is_refused_even_where_a_stronger_source_hides_it() {
    let said = refusal(load("devices.max = 0", &[("BLOCKREMOTE_DEVICES__MAX", "5")], &[]));
    assert!(said.starts_with("1: devices.max = 0"), "{said}");
}

#[test]
fn a_secret_is_never_shown() {
    let short = "hunter2";
    let good = "correct horse battery staple";
    for said in [
        refusal_of(&format!("billing.webhook_secret = \"{short}\"")),
        refusal_of("billing.webhook_secret = 77777"),
        refusal_of(&format!("billing.webhook_secrt = \"{good}\"")),
        refusal_of(&format!("billing.webhook_secret = \"{good}")),
        refusal(load("", &[("BLOCKREMOTE_BILLING__WEBHOOK_SECRET", short)], &[])),
        refusal(load("", &[("BLOCKREMOTE_BILLING__WEBHOOK_SECRT", good)], &[])),
        refusal(load("", &[], &[("billing.webhook_secret", short)])),
    ] {
        assert!(!said.contains(short) && !said.contains("horse") && !said.contains("77777"), "{said}");
    }
    assert!(
        refusal_of("billing.webhook_secret = \"hunter2\"")
            .contains("webhook_secret = *** is not acceptable: it has 7 bytes")
    );
    let loaded = load(&format!("billing.webhook_secret = \"{good}\""), &[], &[]).unwrap();
    let row = loaded.rows.iter().find(|r| r.key.kind.is_secret()).unwrap();
    assert_eq!(row.shown(), "\"***\"");
    assert!(!loaded.to_json().to_string().contains("horse"));
    assert!(!format!("{:?}", loaded.config).contains("horse"));
}

#[test]
fn the_print_is_json_with_types_and_places() {
    let loaded = load("[store]\nquick_repair = true", &[("BLOCKREMOTE_TLS__NAMES", "a.example")], &[]).unwrap();
    let json = loaded.to_json();
    let row = |name: &str| json["keys"].as_array().unwrap().iter().find(|r| r["key"] == name).unwrap().clone();
    assert_eq!(row("store.quick_repair")["value"], true);
    assert_eq!(row("store.quick_repair")["from"], "file");
    assert!(row("store.quick_repair")["place"].as_str().unwrap().ends_with("config.toml:2"));
    assert_eq!(row("tls.names")["value"], serde_json::json!(["a.example"]));
    assert_eq!(row("devices.max")["value"], 100_000);
    assert!(row("tls.key")["value"].is_null());
    assert!(json["file"].is_string());
}

#[test]
fn a_broken_file_is_refused_by_line() {
    assert!(load("", &[], &[]).is_ok(), "an empty file is a file of defaults");
    assert!(load("# only a comment\r\n", &[], &[]).is_ok());
    let huge = vec![b'#'; usize::try_from(FILE_BYTES_MAX).unwrap() + 1];
    for (bytes, expect) in [
        (&b"[log]\nlevel = \n"[..], "2: the line is not valid TOML"),
        (b"[log]\nlevel = \"info\"\nlevel = \"warn\"\n", "3: the line is not valid TOML"),
        (b"a\n\0", "2: the configuration file holds a NUL byte"),
        (b"\n\n\xff\xfe", "3: the configuration file is not UTF-8"),
        (&huge, "larger than 1048576 bytes"),
    ] {
        let said = refusal(load_bytes(bytes, &[], &[]));
        assert!(said.contains(expect), "{said}");
    }
    let full = vec![b'\n'; usize::try_from(FILE_BYTES_MAX).unwrap()];
    assert!(load_bytes(&full, &[], &[]).is_ok(), "the limit itself is allowed");
}

#[test]
fn a_file_of_garbage_gives_a_bounded_report() {
    let many: String = (0..20_000).map(|i| format!("k{i} = 1\n")).collect();
    let deep = format!("x = {}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let dotted = format!("{} = 1", vec!["a"; 5_000].join("."));
    let broken = "= = =\n".repeat(5_000);
    let long = format!("{} = 1", "k".repeat(500_000));
    for file in [many, deep, dotted, broken, long] {
        let Err(errors) = load(&file, &[], &[]) else { panic!("was accepted") };
        assert!(errors.problems.len() <= 64 && errors.to_string().len() < 40_000);
    }
    let env: Vec<_> = (0..1000).map(|i| (format!("BLOCKREMOTE_K{i}"), String::new())).collect();
    let Err(errors) = Config::load(&Sources { env, ..Sources::default() }) else { panic!("was accepted") };
    assert!(errors.problems.len() == 64 && errors.cut);
}

#[test]
fn only_a_file_that_nobody_named_may_be_absent() {
    let place = Folder::new();
    let absent = place.dir.path().join("absent.toml");
    let present = place.file("devices.max = 7");
    let search = [absent.clone(), present.clone()];
    let with = |config_file: Option<&PathBuf>, variable: Option<&PathBuf>| {
        let env = variable.map(|p| ("BLOCKREMOTE_CONFIG".to_owned(), p.display().to_string()));
        Config::load(&Sources {
            config_file: config_file.cloned(),
            env: env.into_iter().collect(),
            flags: vec![],
            defaults_search: &search,
        })
    };
    assert_eq!(with(None, None).unwrap().file, Some(present.clone()), "the first that exists");
    assert!(refusal(with(Some(&absent), None)).contains("cannot be read"));
    assert!(refusal(with(None, Some(&absent))).contains("cannot be read"));
    assert_eq!(with(Some(&present), Some(&absent)).unwrap().config.devices.max, 7, "the flag wins over the variable");
    assert!(
        refusal(with(Some(&place.dir.path().to_owned()), None)).contains("cannot be read"),
        "a directory is no file"
    );
    assert!(Config::load(&Sources { defaults_search: &search[..1], ..Sources::default() }).unwrap().file.is_none());
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (file, expect) in [
        ("tls.certificate = \"c\"", "1: tls.certificate is set and tls.key is not: set both or none"),
        ("\ntls.key = \"k\"", "2: tls.key is set and tls.certificate is not"),
        ("tokens.refresh_absolute_days = 5", "1: tokens.refresh_ttl_days is above tokens.refresh_absolute_days"),
        ("grpc.listen = \"127.0.0.1:8443\"", "1: grpc.listen and http.listen both want port 8443"),
        ("internal.listen = \"127.0.0.1:8444\"", "1: internal.listen and grpc.listen both want port 8444"),
    ] {
        let said = refusal_of(file);
        assert!(said.contains(expect), "{said}");
    }
    let zeros = "http.listen = \"127.0.0.1:0\"\ngrpc.listen = \"127.0.0.1:0\"\ninternal.listen = \"127.0.0.1:0\"";
    assert!(load(zeros, &[], &[]).is_ok(), "port 0 is never taken");
    assert!(load("http.listen = \"10.0.0.1:1\"\ngrpc.listen = \"10.0.0.2:1\"", &[], &[]).is_ok());
}

#[test]
fn what_is_allowed_and_unwise_is_noted() {
    let place = Folder::new();
    let path = place.file("internal.listen = \"0.0.0.0:9464\"\nbilling.webhook_secret = \"0123456789abcdef\"");
    let notes = |mode| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Config::load(&Sources { config_file: Some(path.clone()), ..Sources::default() }).unwrap().notes
    };
    assert_eq!(notes(0o640).len(), 1);
    let loud = notes(0o644);
    assert!(loud[0].contains("without TLS and a login") && loud[1].contains("chmod 640"), "{loud:?}");
}

#[test]
fn words_are_read_strictly() {
    for (key, word) in [
        ("devices.max", "+5"),
        ("devices.max", " 5"),
        ("devices.max", "5_0"),
        ("devices.max", "0x10"),
        ("devices.max", ""),
        ("devices.max", "1e3"),
        ("devices.max", "-"),
        ("store.quick_repair", "1"),
        ("store.quick_repair", "True"),
        ("billing.webhook_secret", ""),
        ("tls.certificate", ""),
        ("tls.names", "a,,b"),
        ("tls.names", "1.2.3.256"),
        ("tls.names", "-a.example"),
        ("http.trusted_proxies", "10.0.0.0/33"),
        ("http.trusted_proxies", "10.0.0.0/"),
        ("http.trusted_proxies", "10.0.0.0/+8"),
        ("http.allowed_origins", "https://a.example/"),
        ("http.allowed_origins", "https://a.example:0"),
        ("http.allowed_origins", "https://a.example:99999"),
        ("http.allowed_origins", "https://u@a.example"),
        ("http.allowed_origins", "null"),
        ("http.allowed_origins", "ftp://a.example"),
        ("http.allowed_origins", "https://[::1"),
        ("http.allowed_origins", "https://[::1]x"),
        ("http.allowed_origins", "https://"),
    ] {
        assert!(load("", &[], &[(Key::find(key).unwrap().name, word)]).is_err(), "{key} = {word:?} must be refused");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
    #[test]
    fn no_word_makes_any_key_panic(word in "\\PC{0,40}|[0-9.:/\\[\\]-]{0,20}|https://[a-z0-9:.\\[\\]@/]{0,20}") {
        for key in KEYS {
            let value = key.kind.read_word(&word);
            let _ = (value.to_string(), key.kind.accept(&value, &mut Config::blank()));
        }
    }
}
