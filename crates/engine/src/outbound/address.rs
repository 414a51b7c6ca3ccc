//! Which addresses a tool may be connected to. Pure: an address in, yes or a reason out.
//!
//! Everything in IANA's special-purpose registries that is not globally reachable is refused, and addresses that
//! carry another address inside are judged by the one inside. Of IPv6 only global unicast (2000::/3) and NAT64 can
//! be allowed, so what is not known here is refused.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// "This network", the unspecified address.
    Unspecified,
    /// The machine itself.
    Loopback,
    /// A private network.
    Private,
    /// Behind a carrier's address translation.
    CarrierNat,
    /// The local link.
    LinkLocal,
    /// A cloud's metadata service.
    Metadata,
    /// Multicast and broadcast.
    Multicast,
    /// Documentation and benchmarks.
    Documentation,
    /// Not assigned for ordinary traffic.
    Reserved,
    /// An IPv4 address in the clothes of IPv6.
    Mapped,
}

impl Why {
    /// Every reason.
    pub const ALL: [Why; 10] = [
        Why::Unspecified,
        Why::Loopback,
        Why::Private,
        Why::CarrierNat,
        Why::LinkLocal,
        Why::Metadata,
        Why::Multicast,
        Why::Documentation,
        Why::Reserved,
        Why::Mapped,
    ];

    /// The words for people and models.
    pub const fn as_str(self) -> &'static str {
        match self {
            Why::Unspecified => "an unspecified address",
            Why::Loopback => "a loopback address",
            Why::Private => "a private address",
            Why::CarrierNat => "an address behind carrier-grade NAT",
            Why::LinkLocal => "a link-local address",
            Why::Metadata => "a cloud metadata address",
            Why::Multicast => "a multicast or broadcast address",
            Why::Documentation => "an address for documentation or benchmarks",
            Why::Reserved => "a reserved address",
            Why::Mapped => "an IPv4 address mapped into IPv6",
        }
    }

    /// True when naming the host in TOOL_NETWORK_ALLOWLIST opens it. Nobody means the metadata service, a link or
    /// a group by naming a host.
    pub const fn opened_by_name(self) -> bool {
        matches!(self, Why::Loopback | Why::Private | Why::CarrierNat)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Metadata services with addresses of their own: the common one, Azure's wire server, Alibaba, Oracle.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// The same in IPv6 (AWS, Google, Scaleway).
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];

/// Network, prefix length, reason; the first that contains the address counts.
const SPECIAL_V4: [(Ipv4Addr, u32, Why); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, Why::Unspecified),
    (Ipv4Addr::new(10, 0, 0, 0), 8, Why::Private),
    (Ipv4Addr::new(100, 64, 0, 0), 10, Why::CarrierNat),
    (Ipv4Addr::new(127, 0, 0, 0), 8, Why::Loopback),
    (Ipv4Addr::new(169, 254, 0, 0), 16, Why::LinkLocal),
    (Ipv4Addr::new(172, 16, 0, 0), 12, Why::Private),
    (Ipv4Addr::new(192, 0, 0, 0), 24, Why::Reserved),
    (Ipv4Addr::new(192, 0, 2, 0), 24, Why::Documentation),
    (Ipv4Addr::new(192, 88, 99, 0), 24, Why::Reserved),
    (Ipv4Addr::new(192, 168, 0, 0), 16, Why::Private),
    (Ipv4Addr::new(198, 18, 0, 0), 15, Why::Documentation),
    (Ipv4Addr::new(198, 51, 100, 0), 24, Why::Documentation),
    (Ipv4Addr::new(203, 0, 113, 0), 24, Why::Documentation),
    (Ipv4Addr::new(255, 255, 255, 255), 32, Why::Multicast),
    (Ipv4Addr::new(224, 0, 0, 0), 4, Why::Multicast),
    (Ipv4Addr::new(240, 0, 0, 0), 4, Why::Reserved),
];

/// The same; inside global unicast.
const SPECIAL_V6: [(Ipv6Addr, u32, Why); 3] = [
    // protocol assignments: Teredo, benchmarks, ORCHID
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, Why::Reserved),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, Why::Documentation),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, Why::Documentation),
];

/// May a tool be connected to this address?
pub fn allowed(address: IpAddr) -> Result<(), Why> {
    match address {
        IpAddr::V4(v4) => allowed_v4(v4),
        IpAddr::V6(v6) => allowed_v6(v6),
    }
}

fn allowed_v4(address: Ipv4Addr) -> Result<(), Why> {
    if METADATA_V4.contains(&address) {
        return Err(Why::Metadata);
    }
    let within = |net: Ipv4Addr, prefix: u32| (u32::from(address) ^ u32::from(net)).leading_zeros() >= prefix;
    match SPECIAL_V4.iter().find(|(net, prefix, _)| within(*net, *prefix)) {
        Some((_, _, why)) => Err(*why),
        None => Ok(()),
    }
}

fn allowed_v6(address: Ipv6Addr) -> Result<(), Why> {
    if METADATA_V6.contains(&address) {
        return Err(Why::Metadata);
    }
    let s = address.segments();
    let inner = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => return Err(Why::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => return Err(Why::Loopback),
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => return Err(Why::Mapped),
        [0, 0, 0, 0, 0, 0, _, _] => return Err(Why::Reserved),
        // NAT64: how an IPv6-only network reaches IPv4
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => return allowed_v4(inner(high, low)),
        // 6to4
        [0x2002, high, low, ..] => return allowed_v4(inner(high, low)),
        _ => {}
    }
    let within =
        |net: Ipv6Addr, prefix: u32| (u128::from(address) ^ u128::from(net)).leading_zeros() >= prefix;
    if let Some((_, _, why)) = SPECIAL_V6.iter().find(|(net, prefix, _)| within(*net, *prefix)) {
        return Err(*why);
    }
    match s[0] {
        0x2000..=0x3fff => embedded(address),
        0xfc00..=0xfdff => Err(Why::Private),
        0xfe80..=0xfebf => Err(Why::LinkLocal),
        0xff00..=0xffff => Err(Why::Multicast),
        _ => Err(Why::Reserved),
    }
}

/// ISATAP: an IPv4 address behind `0:5efe` in the lower half.
fn embedded(address: Ipv6Addr) -> Result<(), Why> {
    match address.segments() {
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => {
            allowed_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_special_range_is_refused_at_both_ends_and_its_neighbours_are_not() {
        for (net, prefix, why) in SPECIAL_V4 {
            let size = 1_u64 << (32 - prefix);
            let (first, last) = (u32::from(net), (u64::from(u32::from(net)) + size - 1) as u32);
            for inside in [first, last] {
                let address = Ipv4Addr::from(inside);
                let got = allowed(IpAddr::V4(address)).expect_err("special");
                assert!(got == why || got == Why::Metadata || prefix == 4, "{address}: {got}");
            }
        }
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
        ] {
            assert_eq!(allowed(public.parse().expect("an address")), Ok(()), "{public}");
        }
    }

    #[test]
    fn addresses_that_carry_another_are_judged_by_it_or_refused() {
        let table = [
            ("::", Err(Why::Unspecified)),
            ("::1", Err(Why::Loopback)),
            ("::ffff:127.0.0.1", Err(Why::Mapped)),
            ("::ffff:8.8.8.8", Err(Why::Mapped)),
            ("::ffff:0:8.8.8.8", Err(Why::Mapped)),
            ("::127.0.0.1", Err(Why::Reserved)),
            ("64:ff9b::8.8.8.8", Ok(())),
            ("64:ff9b::127.0.0.1", Err(Why::Loopback)),
            ("64:ff9b::169.254.169.254", Err(Why::Metadata)),
            ("64:ff9b:1::8.8.8.8", Err(Why::Reserved)),
            ("2002:0808:0808::1", Ok(())),
            ("2002:7f00:0001::1", Err(Why::Loopback)),
            ("2002:c0a8:0101::1", Err(Why::Private)),
            ("2001::1", Err(Why::Reserved)),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Err(Why::Reserved)),
            ("2001:db8::1", Err(Why::Documentation)),
            ("3fff:0fff::1", Err(Why::Documentation)),
            ("2606:4700:4700::1111", Ok(())),
            ("2a00:1450:4001:0:1:5efe:10.0.0.1", Ok(())),
            ("2a00:1450:4001:0:0:5efe:10.0.0.1", Err(Why::Private)),
            ("fd00:ec2::254", Err(Why::Metadata)),
            ("fc00::1", Err(Why::Private)),
            ("fd12:3456::1", Err(Why::Private)),
            ("fe80::1", Err(Why::LinkLocal)),
            ("fec0::1", Err(Why::Reserved)),
            ("ff02::1", Err(Why::Multicast)),
            ("100::1", Err(Why::Reserved)),
            ("5f00::1", Err(Why::Reserved)),
            ("4000::1", Err(Why::Reserved)),
            ("169.254.169.254", Err(Why::Metadata)),
            ("168.63.129.16", Err(Why::Metadata)),
            ("100.100.100.200", Err(Why::Metadata)),
        ];
        for (address, wanted) in table {
            assert_eq!(allowed(address.parse().expect("an address")), wanted, "{address}");
        }
    }

    #[test]
    fn naming_a_host_opens_neighbours_only() {
        let opened: Vec<Why> = Why::ALL.into_iter().filter(|w| w.opened_by_name()).collect();
        assert_eq!(opened, [Why::Loopback, Why::Private, Why::CarrierNat]);
    }

    proptest! {
        #[test]
        fn what_is_refused_in_ipv4_is_refused_inside_every_ipv6_form(bits in any::<u32>()) {
            let v4 = Ipv4Addr::from(bits);
            let (high, low) = ((bits >> 16) as u16, bits as u16);
            let forms = [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 1, 2, 0, 0, !high, !low),
            ];
            if allowed(IpAddr::V4(v4)).is_err() {
                for form in forms {
                    prop_assert!(allowed(IpAddr::V6(form)).is_err(), "{v4} as {form}");
                }
            }
            // the standard library's own opinions are never stricter
            if allowed(IpAddr::V4(v4)).is_ok() {
                prop_assert!(!v4.is_private() && !v4.is_loopback() && !v4.is_link_local() && !v4.is_multicast());
                prop_assert!(!v4.is_broadcast() && !v4.is_documentation() && !v4.is_unspecified());
            }
        }
    }
}
