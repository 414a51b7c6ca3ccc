//! Where requests of tools may go: one decision, made on the address that is really connected to.
//!
//! [`address`] and [`target`] decide purely: which addresses are public, what a URL means. [`guard`] resolves a
//! name once and checks every answer. [`fetch`] makes the request, pinned to the checked addresses, and follows
//! redirects by hand so that each hop is checked again. [`seen`] says whether a URL was shown to the model, which
//! the permission rules ask (exfiltration guard); [`facts`] reads that from the brain. [`media`] fetches what a
//! message names, for a provider that does not.
//!
//! Refused here: proxies of the environment, cookies, credentials in URLs, anything but HTTP. Not here: whether a
//! person must be asked; that is `permissions`.
//!
//! The invariant: no connection is made to an address that was not checked in the same call.

pub mod address;
pub mod allowlist;
pub mod target;
pub mod guard;
pub mod fetch;
pub mod media;
pub mod seen;
pub mod facts;

pub use address::{Why, allowed};
pub use allowlist::AllowList;
pub use fetch::{FetchError, Hops, Limits, Page, get};
pub use guard::{Admitted, Guard, Resolve, SystemResolver};
pub use target::{Refused, Target};
