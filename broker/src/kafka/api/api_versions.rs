//! ApiVersions, key 18, versions 0-4.
//!
//! Behaviour: the table of `millrace-wire` is the answer. An unknown version is answered in version 0 with
//! UNSUPPORTED_VERSION and ApiVersions' own row, its body unread (KIP-511). No feature is finalized or supported.
//! Version notes: from 3 on the client's software must be named sensibly, else INVALID_REQUEST
//! (`ApiVersionsRequest.isValid`).

use millrace_wire::cold::messages::{ApiVersionsRequest, ApiVersionsResponse};
use millrace_wire::error_code::ErrorCode;
use millrace_wire::{ApiKey, cold};

use crate::kafka::api::reply;
use crate::kafka::dispatch::Request;
use crate::kafka::pipeline::Reply;

/// The first version that names the client's software.
const SOFTWARE_NAMED: i16 = 3;

pub(crate) fn handle(request: Request) -> Reply {
    let row = ApiKey::ApiVersions.row();
    let (version, correlation_id) = (request.version(), request.correlation_id());
    if !row.accepts(version) {
        return Reply::Frame(cold::api_versions_unsupported(correlation_id));
    }
    let body = match request.into_body() {
        Ok(body) => body,
        Err(reason) => return Reply::Close(reason.into()),
    };
    let decoded: ApiVersionsRequest = match cold::decode_request(version, body) {
        Ok(decoded) => decoded,
        Err(error) => return Reply::Close(format!("ApiVersions is malformed: {error}").into()),
    };
    let named = |text: &str| is_software_name(text);
    let sensible = named(&decoded.client_software_name) && named(&decoded.client_software_version);
    let response = if version >= SOFTWARE_NAMED && !sensible {
        ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code())
    } else {
        cold::api_versions()
    };
    reply(row, version, correlation_id, response)
}

/// Letters and digits, inside also '.' and '-'; starts and ends with a letter or digit.
fn is_software_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends_well = |it: Option<&u8>| it.is_some_and(u8::is_ascii_alphanumeric);
    let inside = |it: &u8| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'-');
    ends_well(bytes.first()) && ends_well(bytes.last()) && bytes.iter().all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_follow_kafkas_pattern() {
        for good in ["a", "apache-kafka-java", "4.3.1", "1"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a.", "a b", "é", "a\n"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }
}
