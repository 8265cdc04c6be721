//! Millrace beside Apache Kafka: which goals there are, what is run for each, and the table that comes out.

pub mod broker;
pub mod cases;
pub mod goals;
pub mod process_goals;
pub mod table;
