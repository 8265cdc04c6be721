//! The broker's ops port: a plain GET, and the samples of its metrics page.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a page may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest page that is read; a metrics page is far smaller.
const PAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a GET was answered with.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) status: u16,
    /// The server's clock, as its `Date` header says.
    pub(super) date: Option<String>,
    pub(super) body: String,
}

/// Asks `authority` for a page.
///
/// # Errors
/// Nobody answers in time, or it is no HTTP.
pub(super) async fn get(authority: &str, path: &str) -> Result<Page, NoPage> {
    let asked = tokio::time::timeout(PATIENCE, ask(authority, path)).await;
    asked.map_err(|_| NoPage::Late)?
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoPage {
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("what answers does not speak HTTP")]
    NotHttp,
}

/// HTTP/1.0 keeps the answer plain: no chunks, and its end is the connection's.
async fn ask(authority: &str, path: &str) -> Result<Page, NoPage> {
    let mut stream = TcpStream::connect(authority).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(PAGE_BYTES_MAX).read_to_end(&mut answer).await?;
    page(&String::from_utf8_lossy(&answer)).ok_or(NoPage::NotHttp)
}

fn page(answer: &str) -> Option<Page> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let date = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| value.trim().to_owned())
    });
    Some(Page { status, date, body: body.to_owned() })
}

/// The samples of a metrics page: each metric summed over its labels, and over all of them but the topic.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    sums: BTreeMap<String, f64>,
    /// By metric and topic.
    topics: BTreeMap<(String, String), f64>,
}

impl Samples {
    pub(super) fn read(page: &str) -> Self {
        let mut found = Self::default();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            *found.sums.entry(name.to_owned()).or_insert(0.0) += value;
            if let Some(topic) = topic_of(labels) {
                *found.topics.entry((name.to_owned(), topic.to_owned())).or_insert(0.0) += value;
            }
        }
        found
    }

    pub(super) fn value(&self, name: &str) -> Option<f64> {
        self.sums.get(name).copied()
    }

    /// `None` where the page does not have the topic: it leaves some out when there are very many.
    pub(super) fn topic_value(&self, name: &str, topic: &str) -> Option<f64> {
        self.topics.get(&(name.to_owned(), topic.to_owned())).copied()
    }
}

/// The value of the label `topic`. Names of topics need no escapes.
fn topic_of(labels: &str) -> Option<&str> {
    let mut labels = labels.trim_end_matches('}').split(',');
    labels.find_map(|label| label.strip_prefix("topic=\"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        let answer =
            "HTTP/1.0 503 Service Unavailable\r\nDate: Thu, 01 Jan 1970 00:00:01 GMT\r\n\r\nwhy\n";
        let page = page(answer).unwrap();
        assert_eq!((page.status, page.body.as_str()), (503, "why\n"));
        assert_eq!(page.date.as_deref(), Some("Thu, 01 Jan 1970 00:00:01 GMT"));
        assert!(super::page("SSH-2.0-x\r\n\r\n").is_none());
    }

    #[test]
    fn samples_are_summed_over_labels() {
        let samples =
            Samples::read("# HELP a b\n# TYPE a counter\na{x=\"1\"} 2\na{x=\"2 3\"} 3\nb 0.5\n");
        assert_eq!(samples.value("a"), Some(5.0));
        assert_eq!(samples.value("b"), Some(0.5));
        assert_eq!(samples.value("c"), None);
        let page = "a{topic=\"t.1\",partition=\"0\"} 1\na{partition=\"1\",topic=\"t.1\"} 2\na{topic=\"u\"} 4\n";
        let samples = Samples::read(page);
        assert_eq!(samples.value("a"), Some(7.0));
        assert_eq!(samples.topic_value("a", "t.1"), Some(3.0));
        assert_eq!(samples.topic_value("a", "v"), None);
    }
}
