//! What `topic delete` and `group delete` have in common: one name after the other, until one is refused.

use millrace_client::{Admin, Error};
use serde::Serialize;

use crate::cli::connect::Session;
use crate::cli::failure::Failure;

/// What is gone: `{"deleted":[name]}`.
#[derive(Debug, Serialize)]
struct Deleted {
    deleted: Vec<String>,
}

/// Deletes each of `names`, which are names of a `kind`, by `delete`; it says whether the name was there.
///
/// # Errors
/// One is refused: what was deleted before it is in the message.
pub(super) async fn each(
    session: &Session,
    kind: &str,
    names: Vec<String>,
    delete: impl AsyncFn(&Admin, &str) -> Result<bool, Error>,
) -> Result<(), Failure> {
    let admin = session.admin();
    let mut deleted = Vec::new();
    for name in names {
        match delete(&admin, &name).await {
            Ok(true) => deleted.push(name),
            Ok(false) => {}
            Err(error) => {
                let mut failure = session.failed(format_args!("delete {kind} {name}"))(error);
                if !deleted.is_empty() {
                    failure.message += &format!(" (deleted before: {})", deleted.join(", "));
                }
                return Err(failure);
            }
        }
    }
    session.output.show(&Deleted { deleted }, |document| {
        document.deleted.iter().map(|name| format!("deleted {kind} {name}\n")).collect()
    });
    Ok(())
}
