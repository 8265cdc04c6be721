//! Settings of topics and of this broker: shown with their source, changed through the controller.

use std::collections::BTreeMap;

use millrace_kernel::metadata::configs::{
    AlterConfigRefused, AlterConfigs, AlteredResource, ConfigEdit, ConfigRules, InvalidConfig,
};
use millrace_kernel::metadata::image::Image;
use millrace_kernel::metadata::{Command, Reply};
use millrace_model::ids::NodeId;
use millrace_model::topic_config::{self, Kind, TopicConfig};

use crate::config::Setting;
use crate::config::keys::{self, Kind as KeyKind};
use crate::error::BrokerError;
use crate::service::Hall;

/// A resource that has settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Topic(String),
    /// One broker, or what holds for all of them.
    Broker(Option<NodeId>),
}

/// Kafka's `ConfigResource.Type`.
const TYPE_TOPIC: i8 = 2;
const TYPE_BROKER: i8 = 4;

/// A resource as Kafka names it: type and name; a broker's name is its id, empty for all.
///
/// # Errors
/// A type without settings here, or a broker's name that is no number.
pub(crate) fn resource(kind: i8, name: &str) -> Result<Resource, BrokerError> {
    match kind {
        TYPE_TOPIC => Ok(Resource::Topic(name.to_owned())),
        TYPE_BROKER if name.is_empty() => Ok(Resource::Broker(None)),
        TYPE_BROKER => match name.parse() {
            Ok(id) => Ok(Resource::Broker(Some(NodeId(id)))),
            Err(_) => Err(BrokerError::InvalidRequest(format!("{name:?} is no broker id"))),
        },
        _ => Err(BrokerError::InvalidRequest(format!("resource type {kind} has no settings here"))),
    }
}

/// Where a value comes from; the numbers are Kafka's `DescribeConfigsResponse.ConfigSource`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    TopicOverride = 1,
    /// Changed while this broker runs, for this one.
    DynamicBroker = 2,
    /// Changed while brokers run, for all of them.
    DynamicDefault = 3,
    /// File, environment or flag of this broker.
    Broker = 4,
    Default = 5,
}

impl Source {
    pub(crate) fn number(self) -> i8 {
        self as i8
    }
}

/// One setting as shown.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) value: Option<String>,
    pub(crate) source: Source,
    pub(crate) read_only: bool,
    pub(crate) doc: &'static str,
    /// What would hold, and why, in order of strength; the first one does.
    pub(crate) synonyms: Vec<Synonym>,
}

/// One candidate for a setting's value.
#[derive(Clone, Debug)]
pub(crate) struct Synonym {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
    pub(crate) source: Source,
}

/// Every setting of a topic.
///
/// # Errors
/// There is no such topic.
pub(crate) fn describe_topic(hall: &Hall, name: &str) -> Result<Vec<Row>, BrokerError> {
    let image = hall.controller.image();
    let topic = image.topic(name).ok_or_else(|| BrokerError::unknown_topic(name))?;
    Ok(topic_rows(hall, &topic.configs))
}

/// Every topic setting with these overrides on top of the broker's defaults.
pub(crate) fn topic_rows(hall: &Hall, overrides: &BTreeMap<String, String>) -> Vec<Row> {
    topic_config::ROWS.iter().map(|row| topic_row(hall, row, overrides.get(row.name))).collect()
}

fn topic_row(hall: &Hall, row: &'static topic_config::Row, given: Option<&String>) -> Row {
    let mut synonyms = Vec::new();
    if let Some(value) = given {
        let (name, value) = (row.name.to_owned(), Some(value.clone()));
        synonyms.push(Synonym { name, value, source: Source::TopicOverride });
    }
    if let Some(key) = row.broker_name {
        synonyms.extend(dynamic(&hall.controller.image(), hall.config.node_id, key));
    }
    if let Some(setting) = hall.config.topic_default(row)
        && setting.origin.is_some()
    {
        let (name, value) = (setting.key.name.to_owned(), Some(setting.value.to_owned()));
        synonyms.push(Synonym { name, value, source: Source::Broker });
    }
    let name = row.broker_name.unwrap_or(row.name).to_owned();
    synonyms.push(Synonym { name, value: Some(row.default.to_owned()), source: Source::Default });
    let (value, source) = (synonyms[0].value.clone(), synonyms[0].source);
    Row { name: row.name, kind: row.kind, value, source, read_only: false, doc: row.doc, synonyms }
}

/// What was changed for a broker setting while brokers run, strongest first.
fn dynamic(image: &Image, node: NodeId, key: &str) -> impl Iterator<Item = Synonym> {
    let of = |broker, source| {
        let mut overrides = image.broker_configs(broker);
        let found = overrides.find(|(name, _)| *name == key);
        found.map(|(name, value)| Synonym {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            source,
        })
    };
    let own = of(Some(node), Source::DynamicBroker);
    own.into_iter().chain(of(None, Source::DynamicDefault))
}

/// May this setting change while the broker runs? Those that are defaults of topic settings may
/// (`DynamicLogConfig.RECONFIGURABLE_CONFIGS`).
fn dynamic_row(key: &str) -> Option<&'static topic_config::Row> {
    topic_config::ROWS.iter().find(|row| row.broker_name == Some(key))
}

/// Every setting of this broker; for all brokers (`None`) what was changed for all of them while they run.
///
/// # Errors
/// Another broker is meant.
pub(crate) fn describe_broker(hall: &Hall, id: Option<NodeId>) -> Result<Vec<Row>, BrokerError> {
    let image = hall.controller.image();
    match id {
        None => {
            let rows = hall.config.settings().map(|setting| broker_row(&image, None, setting));
            Ok(rows.filter(|row| row.source == Source::DynamicDefault).collect())
        }
        Some(id) if id == hall.config.node_id => {
            Ok(hall.config.settings().map(|it| broker_row(&image, Some(id), it)).collect())
        }
        Some(id) => {
            let me = hall.config.node_id;
            let message = format!("unexpected broker id, expected {me}, but received {id}");
            Err(BrokerError::InvalidRequest(message))
        }
    }
}

fn broker_row(image: &Image, node: Option<NodeId>, setting: Setting<'_>) -> Row {
    let value = (!setting.value.is_empty()).then(|| setting.value.to_owned());
    let source = if setting.origin.is_some() { Source::Broker } else { Source::Default };
    let name = setting.key.name;
    // No broker has a negative id: asking for all brokers finds what holds for all.
    let mut synonyms: Vec<_> = dynamic(image, node.unwrap_or(NodeId(-1)), name).collect();
    synonyms.push(Synonym { name: name.to_owned(), value, source });
    let (value, source) = (synonyms[0].value.clone(), synonyms[0].source);
    let read_only = dynamic_row(name).is_none();
    let kind = match setting.key.kind {
        KeyKind::Boolean => Kind::Boolean,
        KeyKind::Int => Kind::Int,
        KeyKind::Long => Kind::Long,
        KeyKind::Double => Kind::Double,
        KeyKind::String => Kind::String,
        KeyKind::List => Kind::List,
    };
    Row { name, kind, value, source, read_only, doc: setting.key.doc, synonyms }
}

/// Changes overrides; one result for each edit, in order.
pub(crate) async fn alter(
    hall: &Hall,
    edits: Vec<(Result<Resource, BrokerError>, ConfigEdit)>,
    validate_only: bool,
) -> Vec<Result<(), BrokerError>> {
    let mut resources = Vec::new();
    let mut refused = Vec::new();
    for (resource, edit) in edits {
        match resource {
            Ok(resource) => {
                let resource = match resource {
                    Resource::Topic(name) => AlteredResource::Topic(name),
                    Resource::Broker(id) => AlteredResource::Broker(id),
                };
                resources.push(AlterConfigs { resource, edit });
                refused.push(None);
            }
            Err(error) => refused.push(Some(error)),
        }
    }
    let count = resources.len();
    let asked = hall.controller.ask(Command::AlterConfigs { resources, validate_only }).await;
    let mut altered = match asked {
        Ok(Reply::ConfigsAltered(results)) => {
            results.into_iter().map(|it| it.map_err(BrokerError::from)).collect()
        }
        Ok(other) => unreachable!("a config change was answered with {other:?}"),
        Err(error) => vec![Err(error); count],
    }
    .into_iter();
    let result = |refused| match refused {
        Some(error) => Err(error),
        None => altered.next().unwrap_or(Err(BrokerError::ShuttingDown)),
    };
    refused.into_iter().map(result).collect()
}

/// The rules that the controller checks overrides by.
pub(crate) fn rules() -> ConfigRules {
    ConfigRules { check_topic, check_broker, list_default }
}

fn check_topic(key: &str, value: &str) -> Result<(), InvalidConfig> {
    TopicConfig::default().set(key, value).map_err(|invalid| match invalid.reason {
        topic_config::Reason::UnknownKey => InvalidConfig::UnknownKey { key: key.to_owned() },
        reason => InvalidConfig::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            reason: reason.to_string(),
        },
    })
}

fn check_broker(key: &str, value: &str) -> Result<(), InvalidConfig> {
    if let Some(row) = dynamic_row(key) {
        return check_topic(row.name, value);
    }
    let key = key.to_owned();
    match keys::KEYS.iter().any(|known| known.name == key) {
        true => Err(InvalidConfig::ReadOnly { key }),
        false => Err(InvalidConfig::UnknownKey { key }),
    }
}

fn list_default(key: &str) -> Option<&'static str> {
    topic_config::row(key).filter(|row| row.kind == Kind::List).map(|row| row.default)
}

impl From<AlterConfigRefused> for BrokerError {
    fn from(refused: AlterConfigRefused) -> Self {
        let message = refused.to_string();
        match refused {
            AlterConfigRefused::UnknownTopic { name } => Self::unknown_topic(&name),
            AlterConfigRefused::UnknownBroker { .. }
            | AlterConfigRefused::Repeated { .. }
            | AlterConfigRefused::RepeatedKey { .. }
            | AlterConfigRefused::NullValue { .. } => Self::InvalidRequest(message),
            AlterConfigRefused::NotAList { .. } | AlterConfigRefused::Invalid(_) => {
                Self::InvalidConfig(message)
            }
        }
    }
}
