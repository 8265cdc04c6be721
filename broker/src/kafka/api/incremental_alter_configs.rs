//! IncrementalAlterConfigs, key 44, versions 0-1.
//!
//! Behaviour: SET, DELETE, and for lists APPEND and SUBTRACT (KIP-339); an unknown operation is INVALID_REQUEST.

use millrace_kernel::metadata::configs::{ConfigChange, ConfigEdit, ConfigOperation};
use millrace_wire::cold::messages::incremental_alter_configs_request::AlterableConfig;
use millrace_wire::cold::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use millrace_wire::cold::messages::{
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};

use crate::context::RequestContext;
use crate::error::BrokerError;
use crate::kafka::api::text;
use crate::kafka::errors;
use crate::service::{Hall, configs};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let edits = request.resources.iter().map(|it| {
        let changes: Result<Vec<_>, _> = it.configs.iter().map(change).collect();
        let resource = configs::resource(it.resource_type, &it.resource_name);
        match changes {
            Ok(changes) => (resource, ConfigEdit::Incremental(changes)),
            Err(error) => (resource.and(Err(error)), ConfigEdit::Incremental(Vec::new())),
        }
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
    IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
}

fn change(config: &AlterableConfig) -> Result<ConfigChange, BrokerError> {
    let operation = match config.config_operation {
        0 => ConfigOperation::Set,
        1 => ConfigOperation::Delete,
        2 => ConfigOperation::Append,
        3 => ConfigOperation::Subtract,
        other => {
            let message = format!("unknown config operation {other} for {}", config.name.as_str());
            return Err(BrokerError::InvalidRequest(message));
        }
    };
    let value = config.value.as_ref().map(ToString::to_string);
    Ok(ConfigChange { key: config.name.to_string(), operation, value })
}
