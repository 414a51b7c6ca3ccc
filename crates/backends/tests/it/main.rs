//! The tests of the places where engines run: one suite for all, and what each place promises besides.

mod conformance;
mod rules;
mod simulated;
mod subprocess;
mod docker;
