//! The orchestrator as a library and as a program, in one binary.

mod authorization;
mod cli;
mod config;
mod http;
mod listeners;
mod lives;
mod openapi;
mod trial;
mod registry;
mod registry_audit;
mod registry_migrate;
mod registry_operations;
mod registry_outage;
mod registry_reads;
mod registry_reserve;
mod admission;
mod audit_log;
mod health;
mod keys_live;
mod policy;
mod products_live;
mod sleeping;
mod table;
