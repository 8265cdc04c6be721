//! Door 3, for those who run the broker: probes, metrics, logs. Never touches records or groups.

pub(crate) mod health;
pub(crate) mod http;
pub(crate) mod telemetry;
