//! AlterConfigs, key 33, versions 0-2.
//!
//! Behaviour: the given settings are all that the resource overrides afterwards (Kafka deprecates this API for that).

use millrace_kernel::metadata::configs::ConfigEdit;
use millrace_wire::cold::messages::alter_configs_response::AlterConfigsResourceResponse;
use millrace_wire::cold::messages::{AlterConfigsRequest, AlterConfigsResponse};

use crate::context::RequestContext;
use crate::kafka::api::text;
use crate::kafka::errors;
use crate::service::{Hall, configs};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let edits = request.resources.iter().map(|it| {
        let given = it.configs.iter();
        let given =
            given.map(|it| (it.name.to_string(), it.value.as_ref().map(ToString::to_string)));
        let edit = ConfigEdit::Replace(given.collect());
        (configs::resource(it.resource_type, &it.resource_name), edit)
    });
    let results = configs::alter(hall, edits.collect(), request.validate_only).await;
    let responses = request.resources.into_iter().zip(results).map(|(it, result)| {
        let answer = AlterConfigsResourceResponse::default()
            .with_error_message(None)
            .with_resource_type(it.resource_type)
            .with_resource_name(it.resource_name);
        match result {
            Ok(()) => answer,
            Err(error) => answer
                .with_error_code(errors::number(&error))
                .with_error_message(Some(text(&error.to_string()))),
        }
    });
    AlterConfigsResponse::default().with_responses(responses.collect())
}
