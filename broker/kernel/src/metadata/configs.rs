//! Config overrides of topics and brokers: replaced whole, or edited one by one.
//!
//! Which keys there are and which values they take is the business of whoever runs the cluster: [`ConfigRules`] asks.

use std::collections::{BTreeMap, BTreeSet};

use millrace_model::ids::{NodeId, TopicName};

use super::image::{ConfigResource, Image};
use super::record::Record;
use super::topics::topic_mut;

/// The table of keys, as questions.
#[derive(Clone, Copy, Debug)]
pub struct ConfigRules {
    /// May a topic override `key` with `value`?
    pub check_topic: fn(key: &str, value: &str) -> Result<(), InvalidConfig>,
    /// May a broker, while it runs?
    pub check_broker: fn(key: &str, value: &str) -> Result<(), InvalidConfig>,
    /// For a key whose value is a comma-separated list: the value without an override. Others: `None`.
    pub list_default: fn(key: &str) -> Option<&'static str>,
}

/// Why an override is illegal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    #[error("unknown config {key}")]
    UnknownKey { key: String },
    #[error("config {key} cannot be changed while the broker runs")]
    ReadOnly { key: String },
    #[error("invalid value {value} for config {key}: {reason}")]
    Value { key: String, value: String, reason: String },
}

/// A change of one resource's overrides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterConfigs {
    pub resource: AlteredResource,
    pub edit: ConfigEdit,
}

/// A resource as a client names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlteredResource {
    Topic(String),
    /// One broker, or all of them.
    Broker(Option<NodeId>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigEdit {
    /// These are all overrides: what is not named loses its own.
    Replace(Vec<(String, Option<String>)>),
    Incremental(Vec<ConfigChange>),
}

/// One step of an incremental edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChange {
    pub key: String,
    pub operation: ConfigOperation,
    /// Ignored by `Delete`.
    pub value: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigOperation {
    Set,
    Delete,
    /// Adds to a list.
    Append,
    /// Takes from a list.
    Subtract,
}

/// Why overrides stay as they were. Each stands for one Kafka error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlterConfigRefused {
    #[error("there is no topic '{name}'")]
    UnknownTopic { name: String },
    #[error("there is no broker {id}")]
    UnknownBroker { id: NodeId },
    #[error("{resource:?} is named twice in one request")]
    Repeated { resource: AlteredResource },
    #[error("config {key} is named twice")]
    RepeatedKey { key: String },
    #[error("config {key} has no value")]
    NullValue { key: String },
    #[error("config {key} is no list: nothing can be appended or subtracted")]
    NotAList { key: String },
    #[error(transparent)]
    Invalid(#[from] InvalidConfig),
}

type Overrides = BTreeMap<String, String>;

impl ConfigRules {
    /// The overrides that a new topic brings along.
    pub(super) fn check_new_topic(
        &self,
        configs: &[(String, Option<String>)],
    ) -> Result<Overrides, AlterConfigRefused> {
        replace(self.check_topic, configs)
    }
}

pub(super) fn decide_alter(
    image: &Image,
    rules: &ConfigRules,
    resources: &[AlterConfigs],
    records: &mut Vec<Record>,
) -> Vec<Result<(), AlterConfigRefused>> {
    let mut named = BTreeSet::new();
    let mut decide = |it: &AlterConfigs| {
        if !named.insert(it.resource.clone()) {
            return Err(AlterConfigRefused::Repeated { resource: it.resource.clone() });
        }
        let (resource, before) = find(image, &it.resource)?;
        let check = match resource {
            ConfigResource::Topic(_) => rules.check_topic,
            ConfigResource::Broker(_) => rules.check_broker,
        };
        let after = match &it.edit {
            ConfigEdit::Replace(configs) => replace(check, configs)?,
            ConfigEdit::Incremental(changes) => edit(rules, check, before, changes)?,
        };
        record_difference(&resource, before, &after, records);
        Ok(())
    };
    resources.iter().map(&mut decide).collect()
}

fn find<'a>(
    image: &'a Image,
    resource: &AlteredResource,
) -> Result<(ConfigResource, &'a Overrides), AlterConfigRefused> {
    static NONE: Overrides = BTreeMap::new();
    match resource {
        AlteredResource::Topic(name) => {
            let unknown = || AlterConfigRefused::UnknownTopic { name: name.clone() };
            let topic = image.topic(name).ok_or_else(unknown)?;
            Ok((ConfigResource::Topic(topic.name.clone()), &topic.configs))
        }
        AlteredResource::Broker(Some(id)) if image.broker(*id).is_none() => {
            Err(AlterConfigRefused::UnknownBroker { id: *id })
        }
        AlteredResource::Broker(id) => {
            let configs = image.broker_configs.get(id).unwrap_or(&NONE);
            Ok((ConfigResource::Broker(*id), configs))
        }
    }
}

type Check = fn(&str, &str) -> Result<(), InvalidConfig>;

fn replace(
    check: Check,
    configs: &[(String, Option<String>)],
) -> Result<Overrides, AlterConfigRefused> {
    let mut after = Overrides::new();
    for (key, value) in configs {
        let null = || AlterConfigRefused::NullValue { key: key.clone() };
        let value = value.as_ref().ok_or_else(null)?;
        check(key, value)?;
        if after.insert(key.clone(), value.clone()).is_some() {
            return Err(AlterConfigRefused::RepeatedKey { key: key.clone() });
        }
    }
    Ok(after)
}

fn edit(
    rules: &ConfigRules,
    check: Check,
    before: &Overrides,
    changes: &[ConfigChange],
) -> Result<Overrides, AlterConfigRefused> {
    let mut after = before.clone();
    let mut named = BTreeSet::new();
    for change in changes {
        let key = &change.key;
        if !named.insert(key) {
            return Err(AlterConfigRefused::RepeatedKey { key: key.clone() });
        }
        match new_value(rules, before, change)? {
            Some(value) => {
                check(key, &value)?;
                after.insert(key.clone(), value);
            }
            None => {
                after.remove(key);
            }
        }
    }
    Ok(after)
}

fn new_value(
    rules: &ConfigRules,
    before: &Overrides,
    change: &ConfigChange,
) -> Result<Option<String>, AlterConfigRefused> {
    let ConfigChange { key, operation, value } = change;
    let given = || {
        let null = || AlterConfigRefused::NullValue { key: key.clone() };
        value.as_deref().ok_or_else(null)
    };
    let list = || {
        let not_a_list = || AlterConfigRefused::NotAList { key: key.clone() };
        let default = (rules.list_default)(key).ok_or_else(not_a_list)?;
        Ok::<_, AlterConfigRefused>(items(before.get(key).map_or(default, String::as_str)))
    };
    Ok(match operation {
        ConfigOperation::Set => Some(given()?.to_owned()),
        ConfigOperation::Delete => None,
        ConfigOperation::Append => {
            let mut list = list()?;
            for item in items(given()?) {
                if !list.contains(&item) {
                    list.push(item);
                }
            }
            Some(list.join(","))
        }
        ConfigOperation::Subtract => {
            let gone = items(given()?);
            let mut list = list()?;
            list.retain(|item| !gone.contains(item));
            Some(list.join(","))
        }
    })
}

fn items(list: &str) -> Vec<&str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
}

fn record_difference(
    resource: &ConfigResource,
    before: &Overrides,
    after: &Overrides,
    records: &mut Vec<Record>,
) {
    let mut record = |key: &str, value: Option<&String>| {
        let (resource, key, value) = (resource.clone(), key.to_owned(), value.cloned());
        records.push(Record::Config { resource, key, value });
    };
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        record(key, None);
    }
    for (key, value) in after.iter().filter(|(key, value)| before.get(*key) != Some(value)) {
        record(key, Some(value));
    }
}

pub(super) fn apply_config(
    image: &mut Image,
    resource: &ConfigResource,
    key: &str,
    value: Option<&str>,
) {
    let configs = match resource {
        ConfigResource::Topic(name) => {
            let id = topic_named(image, name);
            &mut topic_mut(image, id).configs
        }
        ConfigResource::Broker(id) => image.broker_configs.entry(*id).or_default(),
    };
    match value {
        Some(value) => configs.insert(key.to_owned(), value.to_owned()),
        None => configs.remove(key),
    };
    image.broker_configs.retain(|_, configs| !configs.is_empty());
}

fn topic_named(image: &Image, name: &TopicName) -> millrace_model::ids::TopicId {
    image.topics.get(name).expect("records speak of topics that exist").id
}

pub(super) fn snapshot_brokers(image: &Image, records: &mut Vec<Record>) {
    for (id, configs) in &image.broker_configs {
        for (key, value) in configs {
            let resource = ConfigResource::Broker(*id);
            let (key, value) = (key.clone(), Some(value.clone()));
            records.push(Record::Config { resource, key, value });
        }
    }
}
