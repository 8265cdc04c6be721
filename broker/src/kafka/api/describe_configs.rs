//! DescribeConfigs, key 32, versions 1-4.
//!
//! Behaviour: every setting of a topic with its default, not only overrides; every setting of this broker. Null keys
//! mean all, an empty list none. Broker settings are read-only: they come from file, environment and flags.
//! Version notes: synonyms when asked, from 1 on; 3 adds type and documentation.

use millrace_wire::cold::messages::describe_configs_request::DescribeConfigsResource;
use millrace_wire::cold::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use millrace_wire::cold::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use crate::context::RequestContext;
use crate::error::BrokerError;
use crate::kafka::api::text;
use crate::kafka::errors;
use crate::service::Hall;
use crate::service::configs::{self, Resource, Row};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let (synonyms, documentation) = (request.include_synonyms, request.include_documentation);
    let results = request.resources.into_iter().map(|resource| {
        let rows = rows(hall, &resource);
        let wanted = |row: &Row| match &resource.configuration_keys {
            None => true,
            Some(keys) => keys.iter().any(|key| key.as_str() == row.name),
        };
        let answer = DescribeConfigsResult::default()
            .with_error_message(None)
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match rows {
            Ok(rows) => {
                let rows = rows.into_iter().filter(|row| wanted(row));
                answer.with_configs(rows.map(|row| result(row, synonyms, documentation)).collect())
            }
            Err(error) => answer
                .with_error_code(errors::number(&error))
                .with_error_message(Some(text(&error.to_string()))),
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn rows(hall: &Hall, resource: &DescribeConfigsResource) -> Result<Vec<Row>, BrokerError> {
    match configs::resource(resource.resource_type, &resource.resource_name)? {
        Resource::Topic(name) => configs::describe_topic(hall, &name),
        Resource::Broker(id) => configs::describe_broker(hall, id),
    }
}

fn result(
    row: Row,
    with_synonyms: bool,
    with_documentation: bool,
) -> DescribeConfigsResourceResult {
    let synonyms = row.synonyms.iter().filter(|_| with_synonyms).map(|synonym| {
        DescribeConfigsSynonym::default()
            .with_name(text(&synonym.name))
            .with_value(synonym.value.as_deref().map(text))
            .with_source(synonym.source.number())
    });
    DescribeConfigsResourceResult::default()
        .with_name(text(row.name))
        .with_value(row.value.as_deref().map(text))
        .with_read_only(row.read_only)
        .with_config_source(row.source.number())
        .with_synonyms(synonyms.collect())
        .with_config_type(row.kind as i8)
        .with_documentation(with_documentation.then(|| text(row.doc)))
}
