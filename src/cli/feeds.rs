//! `intel`: threat feeds from files, and the table that judges names.

use std::path::{Path, absolute};

use serde_json::{Value, json};

use super::admin::{ask, list, text};
use super::args::exit;
use super::args::feeds::{FeedsCommand, FitArgs, ScoreArgs};
use super::output::{self, Cell, Style};
use super::{Failure, Outcome};
use crate::app::control::Ask;
use crate::app::feeds::{AskIntel, Terms};
use crate::config::Config;
use crate::domains::intel::dns::{fit, measure};

pub(super) fn run(config: &Config, command: &FeedsCommand) -> Outcome {
    match command {
        FeedsCommand::Import(args) => {
            let terms = Terms {
                format: args.format,
                kind: args.kind,
                confidence: args.confidence,
                lifetime_days: args.lifetime_days,
                stale_days: args.stale_days,
            };
            let (name, tenant) = (args.name.clone(), args.tenant.clone());
            let answer =
                ask(config, &Ask::Intel(AskIntel::Import { file: absolute(&args.file)?, name, tenant, terms }))?;
            show(&answer, args.json, || {
                let left_out = number(&answer, "rejected") + number(&answer, "ignored");
                format!("Feed {} holds {} indicators; {left_out} lines were left out.\n", args.name, total(&answer))
            })
        }
        FeedsCommand::List(args) => {
            let answer = ask(config, &Ask::Intel(AskIntel::List { tenant: args.tenant.clone() }))?;
            show(&answer, args.json, || table_of(&answer))
        }
        FeedsCommand::Remove(args) => {
            let (name, tenant) = (args.name.clone(), args.tenant.clone());
            let answer = ask(config, &Ask::Intel(AskIntel::Remove { name, tenant }))?;
            show(&answer, args.json, || format!("Feed {} is removed.\n", args.name))
        }
        FeedsCommand::Lookup(args) => {
            let (value, tenant) = (args.value.clone(), args.tenant.clone());
            let answer = ask(config, &Ask::Intel(AskIntel::Lookup { kind: args.kind, value, tenant }))?;
            show(&answer, args.json, || {
                let mut out = format!("{}\n", text(&answer, "verdict"));
                for found in list(&answer, "matches") {
                    let (listed, feed) = (text(found, "listed"), text(found, "feed"));
                    out.push_str(&format!("{listed} by {feed} ({} %)\n", number(found, "confidence")));
                }
                out
            })
        }
        FeedsCommand::FitDns(args) => fit_dns(args),
        FeedsCommand::ScoreDns(args) => score_dns(args),
    }
}

fn show(answer: &Value, as_json: bool, in_words: impl FnOnce() -> String) -> Outcome {
    output::to_stdout(&if as_json { output::json(answer) } else { in_words() })?;
    Ok(exit::DONE)
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn total(feed: &Value) -> u64 {
    let counts = feed.get("indicators").and_then(Value::as_object);
    counts.into_iter().flat_map(|c| c.values()).filter_map(Value::as_u64).sum()
}

fn table_of(answer: &Value) -> String {
    let rows = list(answer, "feeds").map(|feed| {
        let age_h = number(feed, "age_s") / 3_600;
        let cells = [
            text(feed, "name"),
            text(feed, "state"),
            format!("{age_h} h"),
            total(feed).to_string(),
            text(feed, "source"),
        ];
        cells.map(Cell::from).to_vec()
    });
    output::table(Style::plain(), &["feed", "state", "age", "indicators", "source"], rows.collect())
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| Failure::Failed(format!("{} could not be read: {e}", path.display())))
}

pub(super) fn fit_dns(args: &FitArgs) -> Outcome {
    if args.out.exists() {
        let said = format!("{} exists already; nothing was changed. Choose another name.", args.out.display());
        return Err(Failure::Refused(said));
    }
    let (model, fitted) = fit::fit(&read(&args.names)?, &read(&args.words)?, args.seed);
    if fitted.legitimate == 0 {
        return Err(Failure::Failed("there is no name of four characters or more in the file of names".to_owned()));
    }
    std::fs::write(&args.out, model.to_text())?;
    let answer = json!({
        "legitimate": fitted.legitimate,
        "generated": fitted.generated,
        "accuracy": fitted.accuracy,
        "file": args.out,
    });
    show(&answer, args.json, || {
        let share = fitted.accuracy * 100.0;
        format!(
            "{} was made from {} chosen and {} generated labels; it tells {share:.1} % of them apart.\n",
            args.out.display(),
            fitted.legitimate,
            fitted.generated
        )
    })
}

pub(super) fn score_dns(args: &ScoreArgs) -> Outcome {
    let measured = measure::measure(&read(&args.file)?);
    let answer = serde_json::to_value(&measured).map_err(|e| Failure::Failed(e.to_string()))?;
    show(&answer, args.json, || {
        let rows = measured.rows.iter().map(|row| {
            let figures = [format!("{:.3}", row.auc), format!("{:.2}", row.tpr_at_1_percent)];
            let [auc, tpr] = figures;
            [row.family.clone(), row.names.to_string(), auc, tpr].map(Cell::from).to_vec()
        });
        let table = output::table(Style::plain(), &["family", "names", "AUC", "TPR at 1 %"], rows.collect());
        format!("{} legitimate names\n{table}", measured.legitimate)
    })
}
