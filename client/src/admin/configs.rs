//! Settings of topics and of the broker, and what the cluster is made of.

use millrace_proto::v1;
use millrace_proto::v1::describe_config_request::Resource;

use crate::Error;
use crate::admin::Admin;

/// Whose settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigResource {
    Topic(String),
    /// The broker that answers.
    Broker,
}

/// A setting, where its value comes from and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigDescription {
    pub name: String,
    /// None where there is none, or where it is sensitive.
    pub value: Option<String>,
    /// As Kafka calls it: DYNAMIC_TOPIC_CONFIG, STATIC_BROKER_CONFIG, DEFAULT_CONFIG.
    pub source: String,
    pub read_only: bool,
    pub sensitive: bool,
    /// As Kafka calls it: BOOLEAN, INT, LONG, STRING, LIST and so on.
    pub kind: String,
    pub documentation: String,
}

/// The brokers that answer as one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterDescription {
    pub cluster_id: String,
    pub controller: i32,
    pub brokers: Vec<BrokerDescription>,
}

/// A broker of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerDescription {
    pub id: i32,
    /// The Kafka door's address, as clients of that door reach it.
    pub kafka_address: String,
    /// Such as 0.1.0; of the broker that answers.
    pub version: String,
}

impl Admin {
    /// Settings by name, without names all.
    ///
    /// # Errors
    /// There is no such topic.
    pub async fn describe_config(
        &self,
        resource: ConfigResource,
        names: &[String],
    ) -> Result<Vec<ConfigDescription>, Error> {
        let resource = &resource;
        let answer = self.client.ask(|| async move {
            let resource = match resource {
                ConfigResource::Topic(topic) => Resource::Topic(topic.clone()),
                ConfigResource::Broker => Resource::Broker(true),
            };
            let (resource, names) = (Some(resource), names.to_vec());
            let request = v1::DescribeConfigRequest { resource, names };
            Ok(self.door().describe_config(self.client.request(request)).await?.into_inner())
        });
        Ok(answer.await?.configs.into_iter().map(ConfigDescription::from).collect())
    }

    /// Sets settings of a topic, or clears those that come without a value, all or none.
    ///
    /// # Errors
    /// There is no such topic or setting, or a value cannot be.
    pub async fn alter_config(
        &self,
        topic: &str,
        changes: impl IntoIterator<Item = (String, Option<String>)>,
    ) -> Result<(), Error> {
        self.change(topic, changes, false).await
    }

    /// Says whether [`Self::alter_config`] would succeed.
    ///
    /// # Errors
    /// As it would.
    pub async fn validate_config(
        &self,
        topic: &str,
        changes: impl IntoIterator<Item = (String, Option<String>)>,
    ) -> Result<(), Error> {
        self.change(topic, changes, true).await
    }

    async fn change(
        &self,
        topic: &str,
        changes: impl IntoIterator<Item = (String, Option<String>)>,
        validate_only: bool,
    ) -> Result<(), Error> {
        let entry = |(name, value)| v1::ConfigEntry { name, value };
        let request = v1::AlterConfigRequest {
            topic: topic.to_owned(),
            configs: changes.into_iter().map(entry).collect(),
            validate_only,
        };
        self.door().alter_config(self.client.request(request)).await?;
        Ok(())
    }

    /// The cluster and its brokers.
    ///
    /// # Errors
    /// The broker cannot be asked.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, Error> {
        let answer = self.client.ask(|| async move {
            let request = self.client.request(v1::DescribeClusterRequest {});
            Ok(self.door().describe_cluster(request).await?.into_inner())
        });
        let answer = answer.await?;
        let broker = |it: v1::BrokerDescription| BrokerDescription {
            id: it.id,
            kafka_address: it.kafka_address,
            version: it.version,
        };
        Ok(ClusterDescription {
            cluster_id: answer.cluster_id,
            controller: answer.controller,
            brokers: answer.brokers.into_iter().map(broker).collect(),
        })
    }
}

impl From<v1::ConfigDescription> for ConfigDescription {
    fn from(it: v1::ConfigDescription) -> Self {
        Self {
            name: it.name,
            value: it.value,
            source: it.source,
            read_only: it.read_only,
            sensitive: it.sensitive,
            kind: it.r#type,
            documentation: it.documentation,
        }
    }
}
