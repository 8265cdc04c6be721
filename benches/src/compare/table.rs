//! The figures as Markdown, and their place in a page.

use std::fmt::Write;

use crate::compare::cases::{CASES, Results};
use crate::compare::goals::{Row, Wanted};
use crate::report::{Report, mib};

const BEGIN: &str = "<!-- compare:begin -->";
const END: &str = "<!-- compare:end -->";

/// The goals, a line each.
pub fn goals(rows: &[Row]) -> String {
    let mut table = String::from(
        "| goal | work | unit | Millrace | held against | its figure | ratio | goal asks | met |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let wanted = match row.wanted {
            Wanted::RatioAtLeast(least) => format!(">= {least}x"),
            Wanted::RatioAtMost(most) => format!("<= {most}x"),
            Wanted::AtMost(most) => format!("<= {most} {}", last_word(row.unit)),
            Wanted::Nothing => "-".into(),
        };
        let met = match (row.is_met(), row.wanted) {
            (Some(true), _) => "yes",
            (Some(false), _) => "**no**",
            (None, Wanted::Nothing) => "-",
            (None, _) => "not measured",
        };
        let ratio = row.ratio().map_or("-".into(), |it| format!("{it:.2}x"));
        let (ours, theirs) = (figure(row.ours), figure(row.theirs));
        // A write into a String cannot fail.
        let _ = writeln!(
            table,
            "| {} | {} | {} | {ours} | {} | {theirs} | {ratio} | {wanted} | {met} |",
            row.goal, row.what, row.unit, row.against
        );
    }
    table
}

/// Every run's medians.
pub fn details(results: &Results) -> String {
    let mut table = String::from(
        "| work | who | MB/s | requests/s | p50 ms | p99 ms | p99.9 ms | max ms | CPU s/GB | syncs/s | generator CPU \
         | others CPU | memory anon / file MiB |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for case in CASES {
        for variant in case.variants {
            if let Some(report) = results.median(case.name, variant.name) {
                table += &detail(case.what, variant.name, &report);
            }
        }
    }
    table
}

fn detail(what: &str, who: &str, report: &Report) -> String {
    let latency = &report.latency;
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let broker = report.broker.as_ref();
    let cost = broker.map_or("-".into(), |it| format!("{:.3}", it.cpu_seconds_per_gb));
    let memory = broker.map_or("-".into(), |it| {
        format!("{:.0} / {:.0}", mib(it.anonymous_bytes), mib(it.file_bytes))
    });
    let syncs = report.syncs.map(|it| it as f64 / report.seconds.max(1e-9));
    let generator = if broker.is_some() { percent(report.generator_cpu_share) } else { "-".into() };
    let others = report.others_cpu_share.map_or("-".into(), percent);
    format!(
        "| {what} | {who} | {:.1} | {:.0} | {:.3} | {:.3} | {:.3} | {:.1} | {cost} | {} | {generator} | {others} | {memory} |\n",
        report.mb_per_second,
        report.requests_per_second,
        latency.p50_ms,
        latency.p99_ms,
        latency.p999_ms,
        latency.max_ms,
        figure(syncs),
    )
}

/// `ms` of `p99 ms`.
fn last_word(unit: &str) -> &str {
    unit.rsplit(' ').next().unwrap_or(unit)
}

/// With as many digits as tell something.
fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 1.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.3}"),
    }
}

/// `page` with `text` between its two marks; `None` when it has none.
pub fn put_into(page: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_lands_between_the_marks() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(put_into(&page, "new\n"), Some(format!("a\n{BEGIN}\nnew\n{END}\nb\n")));
        assert_eq!(put_into("a", "new"), None);
    }
}
