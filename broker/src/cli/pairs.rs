//! `key=value` on the command line: settings and headers.

use clap::Args;

/// One pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) key: String,
    pub(super) value: String,
}

/// Reads `key=value`; the value may be empty and may have more `=`.
///
/// # Errors
/// There is no `=`, or nothing before it.
pub(super) fn assignment(text: &str) -> Result<Assignment, NoAssignment> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok(Assignment { key: key.trim().to_owned(), value: value.to_owned() })
        }
        _ => Err(NoAssignment),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no KEY=VALUE")]
pub(super) struct NoAssignment;

/// Settings of a topic that are to change.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Settings {
    /// Changes a setting; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<Assignment>,
    /// Back to the default; may be given many times
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
}

impl Settings {
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.unset.is_empty()
    }

    /// Every setting with its new value; without one the default holds again.
    pub(super) fn changes(&self) -> Vec<(String, Option<String>)> {
        let set = self.set.iter().map(|it| (it.key.clone(), Some(it.value.clone())));
        set.chain(self.unset.iter().map(|key| (key.clone(), None))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_have_a_key() {
        let pair = |key: &str, value: &str| {
            Ok(Assignment { key: key.to_owned(), value: value.to_owned() })
        };
        assert_eq!(assignment("a=b"), pair("a", "b"));
        assert_eq!(assignment("a="), pair("a", ""));
        assert_eq!(assignment("a=b=c "), pair("a", "b=c "));
        for text in ["", "a", "=b", " =b"] {
            assert_eq!(assignment(text), Err(NoAssignment), "{text:?}");
        }
    }
}
