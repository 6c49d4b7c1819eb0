//! The table of ways round the check, and what must become of each; and that the address that was checked is the one that is dialled.
//!
//! Families: OWASP's sheet on server-side request forgery, IANA's registries, and what products like ours let pass when we tried them.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use proptest::prelude::*;
use tokio::net::TcpListener;
use url::Url;

use super::family::{Family, special_networks};
use super::grants::Grant;
use super::policy::{Policy, Refusal};
use super::resolver::Lookup;
use crate::http_client::{self, Answer, ExchangeError, HttpClient};

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Dialled.
    Pass,
    /// Refused, as this.
    Is(Family),
    /// Refused without being looked at: no HTTP.
    Scheme,
    /// It is a name. The resolver judges what it leads to.
    Name,
    /// The URL parser takes it for nothing.
    NoUrl,
}

use Family as F;
use Verdict::{Is, Name, NoUrl, Pass, Scheme};

/// Input (what stands where the host stands, or a whole URL), with public addresses only, on the user's own word.
const TABLE: &[(&str, Verdict, Verdict)] = &[
    // Public, and right beside the families.
    ("140.82.121.4", Pass, Pass),
    ("9.255.255.255", Pass, Pass),
    ("11.0.0.0", Pass, Pass),
    ("100.63.255.255", Pass, Pass),
    ("100.128.0.0", Pass, Pass),
    ("126.255.255.255", Pass, Pass),
    ("128.0.0.0", Pass, Pass),
    ("169.253.255.255", Pass, Pass),
    ("169.255.0.0", Pass, Pass),
    ("172.15.255.255", Pass, Pass),
    ("172.32.0.0", Pass, Pass),
    ("192.167.255.255", Pass, Pass),
    ("192.169.0.0", Pass, Pass),
    ("198.17.255.255", Pass, Pass),
    ("198.20.0.0", Pass, Pass),
    ("223.255.255.255", Pass, Pass),
    ("168.63.129.15", Pass, Pass),
    ("[2606:4700::6810:1]", Pass, Pass),
    ("[2a02:26f0::1]", Pass, Pass),
    // Each family as it stands.
    ("0.0.0.0", Is(F::Unspecified), Is(F::Unspecified)),
    ("0.1.2.3", Is(F::Unspecified), Is(F::Unspecified)),
    ("127.0.0.1", Is(F::Loopback), Pass),
    ("127.255.255.254", Is(F::Loopback), Pass),
    ("10.0.0.1", Is(F::Private), Pass),
    ("172.16.0.1", Is(F::Private), Pass),
    ("172.31.255.255", Is(F::Private), Pass),
    ("192.168.1.1", Is(F::Private), Pass),
    ("100.64.0.1", Is(F::CarrierNat), Pass),
    ("100.127.255.255", Is(F::CarrierNat), Pass),
    ("169.254.1.1", Is(F::LinkLocal), Is(F::LinkLocal)),
    ("169.254.169.254", Is(F::Metadata), Is(F::Metadata)),
    ("169.254.170.2", Is(F::Metadata), Is(F::Metadata)),
    ("168.63.129.16", Is(F::Metadata), Is(F::Metadata)),
    ("100.100.100.200", Is(F::Metadata), Is(F::Metadata)),
    ("192.0.0.192", Is(F::Metadata), Is(F::Metadata)),
    ("192.0.0.1", Is(F::Reserved), Pass),
    ("192.0.2.1", Is(F::Documentation), Pass),
    ("198.51.100.1", Is(F::Documentation), Pass),
    ("203.0.113.1", Is(F::Documentation), Pass),
    ("192.88.99.1", Is(F::Reserved), Pass),
    ("198.18.0.1", Is(F::Benchmark), Pass),
    ("198.19.255.255", Is(F::Benchmark), Pass),
    ("224.0.0.1", Is(F::Multicast), Is(F::Multicast)),
    ("239.255.255.250", Is(F::Multicast), Is(F::Multicast)),
    ("240.0.0.1", Is(F::Reserved), Pass),
    ("255.255.255.255", Is(F::Broadcast), Is(F::Broadcast)),
    ("[::]", Is(F::Unspecified), Is(F::Unspecified)),
    ("[::1]", Is(F::Loopback), Pass),
    ("[fe80::1]", Is(F::LinkLocal), Is(F::LinkLocal)),
    ("[febf::1]", Is(F::LinkLocal), Is(F::LinkLocal)),
    ("[fec0::1]", Is(F::SiteLocal), Pass),
    ("[fc00::1]", Is(F::UniqueLocal), Pass),
    ("[fdff:ffff::1]", Is(F::UniqueLocal), Pass),
    ("[fd00:ec2::254]", Is(F::Metadata), Is(F::Metadata)),
    ("[fd00:ec2::23]", Is(F::Metadata), Is(F::Metadata)),
    ("[fd20:ce::254]", Is(F::Metadata), Is(F::Metadata)),
    ("[ff02::1]", Is(F::Multicast), Is(F::Multicast)),
    ("[100::1]", Is(F::Discard), Pass),
    ("[100:0:0:1::1]", Is(F::Reserved), Pass),
    ("[2001:2::1]", Is(F::Benchmark), Pass),
    ("[2001:10::1]", Is(F::Orchid), Pass),
    ("[2001:20::1]", Is(F::Orchid), Pass),
    ("[2001:1::1]", Is(F::Reserved), Pass),
    ("[2001:db8::1]", Is(F::Documentation), Pass),
    ("[3fff::1]", Is(F::Documentation), Pass),
    ("[4000::1]", Is(F::Reserved), Pass),
    ("[5f00::1]", Is(F::Reserved), Pass),
    ("[200::1]", Is(F::Reserved), Pass),
    // IPv4 inside of IPv6. What it carries is what counts, if that is worse.
    ("[::ffff:140.82.121.4]", Pass, Pass),
    ("[::ffff:127.0.0.1]", Is(F::Loopback), Pass),
    ("[::ffff:7f00:1]", Is(F::Loopback), Pass),
    ("[0:0:0:0:0:ffff:10.0.0.1]", Is(F::Private), Pass),
    ("[::ffff:a9fe:a9fe]", Is(F::Metadata), Is(F::Metadata)),
    ("[::ffff:0.0.0.0]", Is(F::Unspecified), Is(F::Unspecified)),
    ("[::ffff:168.63.129.16]", Is(F::Metadata), Is(F::Metadata)),
    ("[::127.0.0.1]", Is(F::Loopback), Pass),
    ("[::140.82.121.4]", Is(F::Compatible), Pass),
    ("[::169.254.169.254]", Is(F::Metadata), Is(F::Metadata)),
    (
        "[::ffff:0:169.254.169.254]",
        Is(F::Metadata),
        Is(F::Metadata),
    ),
    ("[::ffff:0:140.82.121.4]", Is(F::Translated), Pass),
    ("[64:ff9b::140.82.121.4]", Pass, Pass),
    ("[64:ff9b::10.0.0.1]", Is(F::Private), Pass),
    ("[64:ff9b::a9fe:a9fe]", Is(F::Metadata), Is(F::Metadata)),
    ("[64:ff9b::168.63.129.16]", Is(F::Metadata), Is(F::Metadata)),
    ("[64:ff9b::1:140.82.121.4]", Is(F::Reserved), Pass),
    ("[64:ff9b:1::140.82.121.4]", Is(F::LocalNat64), Pass),
    ("[64:ff9b:1::a9fe:a9fe]", Is(F::Metadata), Is(F::Metadata)),
    (
        "[64:ff9b:1:a9fe:a9:fe00::]",
        Is(F::Metadata),
        Is(F::Metadata),
    ),
    ("[64:ff9b:1:a9:fe:a9fe::]", Is(F::Metadata), Is(F::Metadata)),
    (
        "[64:ff9b:1:0:a9:fea9:fe00:0]",
        Is(F::Metadata),
        Is(F::Metadata),
    ),
    ("[2002:7f00:1::1]", Is(F::Loopback), Pass),
    ("[2002:a9fe:a9fe::1]", Is(F::Metadata), Is(F::Metadata)),
    ("[2002:8c52:7904::1]", Is(F::SixToFour), Pass),
    ("[2001:0:a9fe:a9fe::1]", Is(F::Metadata), Is(F::Metadata)),
    (
        "[2001:0:4136:e378:8000:63bf:5601:5601]",
        Is(F::Metadata),
        Is(F::Metadata),
    ),
    (
        "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
        Is(F::Loopback),
        Pass,
    ),
    (
        "[2001:0:4136:e378:8000:63bf:73ad:86fb]",
        Is(F::Teredo),
        Pass,
    ),
    (
        "[2a02:26f0::5efe:169.254.169.254]",
        Is(F::Metadata),
        Is(F::Metadata),
    ),
    ("[2a02:26f0::200:5efe:10.0.0.1]", Is(F::Private), Pass),
    // Spellings. The parser reads them as the client would, and as C libraries do.
    ("127.1", Is(F::Loopback), Pass),
    ("127.0.1", Is(F::Loopback), Pass),
    ("2130706433", Is(F::Loopback), Pass),
    ("0x7f000001", Is(F::Loopback), Pass),
    ("0x7f.1", Is(F::Loopback), Pass),
    ("0177.0.0.1", Is(F::Loopback), Pass),
    ("0X7F.0.0.0x1", Is(F::Loopback), Pass),
    ("017700000001", Is(F::Loopback), Pass),
    ("127.0.0.1.", Is(F::Loopback), Pass),
    ("127.0.0.1..", Name, Name),
    ("0", Is(F::Unspecified), Is(F::Unspecified)),
    ("0x0", Is(F::Unspecified), Is(F::Unspecified)),
    ("2852039166", Is(F::Metadata), Is(F::Metadata)),
    ("0xa9fea9fe", Is(F::Metadata), Is(F::Metadata)),
    ("0xA9.0xFE.0xA9.0xFE", Is(F::Metadata), Is(F::Metadata)),
    ("0251.0376.0251.0376", Is(F::Metadata), Is(F::Metadata)),
    ("169.254.43518", Is(F::Metadata), Is(F::Metadata)),
    ("169.16689662", Is(F::Metadata), Is(F::Metadata)),
    ("169.254.169.254.", Is(F::Metadata), Is(F::Metadata)),
    ("%31%36%39.254.169.254", Is(F::Metadata), Is(F::Metadata)),
    ("169%2e254%2e169%2e254", Is(F::Metadata), Is(F::Metadata)),
    (
        "\u{2460}\u{2461}\u{2466}.\u{24ea}.\u{24ea}.\u{2460}",
        Is(F::Loopback),
        Pass,
    ),
    (
        "\u{ff11}\u{ff16}\u{ff19}\u{3002}254\u{3002}169\u{3002}254",
        Is(F::Metadata),
        Is(F::Metadata),
    ),
    ("256.0.0.1", NoUrl, NoUrl),
    ("127.0.0.0x100", NoUrl, NoUrl),
    ("4294967296", NoUrl, NoUrl),
    ("1.2.3.4.5", NoUrl, NoUrl),
    ("[::1%25lo]", NoUrl, NoUrl),
    ("[::ffff:127.0.0.1", NoUrl, NoUrl),
    // What is before an `@` is no host, and neither is what is behind a `#`, `?` or `\`.
    (
        "140.82.121.4@169.254.169.254",
        Is(F::Metadata),
        Is(F::Metadata),
    ),
    ("gitlab.com:443@127.0.0.1", Is(F::Loopback), Pass),
    (
        "169.254.169.254#@gitlab.com",
        Is(F::Metadata),
        Is(F::Metadata),
    ),
    (
        "169.254.169.254?@gitlab.com",
        Is(F::Metadata),
        Is(F::Metadata),
    ),
    (
        "169.254.169.254\\@gitlab.com",
        Is(F::Metadata),
        Is(F::Metadata),
    ),
    ("169.254.169.254:80", Is(F::Metadata), Is(F::Metadata)),
    ("169\t.254.169\n.254", Is(F::Metadata), Is(F::Metadata)),
    // Names are judged by what they lead to.
    ("gitlab.com", Name, Name),
    ("localhost", Name, Name),
    ("localhost.", Name, Name),
    ("metadata.google.internal", Name, Name),
    ("169.254.169.254.nip.io", Name, Name),
    ("127.0.0.1.example", Name, Name),
    ("l\u{f6}calhost", Name, Name),
    // Other schemes.
    ("ftp://140.82.121.4/", Scheme, Scheme),
    ("file:///etc/passwd", Scheme, Scheme),
    ("gopher://127.0.0.1:6379/_INFO", Scheme, Scheme),
    ("unix:/run/docker.sock", Scheme, Scheme),
    ("data:application/json,{}", Scheme, Scheme),
];

fn verdict(policy: &Policy, input: &str) -> Verdict {
    let whole = Url::parse(input).ok().filter(|url| {
        // `gitlab.com:443@…` looks like a scheme; only these rows mean one.
        ["ftp", "file", "gopher", "unix", "data"].contains(&url.scheme())
    });
    let Some(url) = whole.or_else(|| Url::parse(&format!("http://{input}/")).ok()) else {
        return NoUrl;
    };
    match policy.check_url(&url) {
        Err(Refusal::Scheme(_)) => Scheme,
        Err(Refusal::Address(refused)) => Is(refused.family),
        Ok(()) if matches!(url.host(), Some(url::Host::Domain(_))) => Name,
        Ok(()) => Pass,
    }
}

fn on_the_users_word(base: &str) -> Policy {
    Policy::users_word(&Url::parse(base).unwrap())
}

fn with_grants(networks: &[&str]) -> Policy {
    let grants = networks.iter().map(|text| Grant::parse(text).unwrap());
    Policy::public_and(grants.collect())
}

#[test]
fn every_known_way_round_the_check_ends_where_the_table_says() {
    let users = on_the_users_word("https://gitlab.example.com");
    let strict = with_grants(&[]);
    let wrong: Vec<String> = TABLE
        .iter()
        .filter_map(|(input, public_only, users_word)| {
            let got = (verdict(&strict, input), verdict(&users, input));
            let wanted = (*public_only, *users_word);
            (got != wanted).then(|| format!("{input}: {got:?}, not {wanted:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_address_that_the_user_configured_literally_is_the_users_business() {
    for host in ["169.254.169.254", "0.0.0.0:8080", "[fe80::1]", "2852039166"] {
        let base = format!("http://{host}/");
        assert_eq!(verdict(&on_the_users_word(&base), host), Pass, "{host}");
    }
    // And only that one.
    let policy = on_the_users_word("http://169.254.169.254/");
    assert_eq!(verdict(&policy, "169.254.169.253"), Is(F::LinkLocal));
    assert_eq!(verdict(&policy, "[fd00:ec2::254]"), Is(F::Metadata));
}

#[test]
fn a_grant_allows_its_network_in_every_form_that_arrives_there() {
    let policy = with_grants(&["10.0.0.0/8", "fd12::/16", "192.0.2.7"]);
    for host in [
        "10.1.2.3",
        "[::ffff:10.1.2.3]",
        "[64:ff9b::10.1.2.3]",
        "[fd12::1]",
        "192.0.2.7",
        "140.82.121.4",
    ] {
        assert_eq!(verdict(&policy, host), Pass, "{host}");
    }
    for (host, family) in [
        ("11.0.0.1", None),
        ("192.168.0.1", Some(F::Private)),
        ("127.0.0.1", Some(F::Loopback)),
        ("192.0.2.8", Some(F::Documentation)),
        // The way there must be granted, too, if it is not everybody's.
        ("[2002:a01:203::1]", Some(F::SixToFour)),
        ("[64:ff9b:1::10.1.2.3]", Some(F::LocalNat64)),
    ] {
        assert_eq!(verdict(&policy, host), family.map_or(Pass, Is), "{host}");
    }
}

#[test]
fn no_network_opens_the_metadata_service_that_happens_to_lie_in_it() {
    let wide = with_grants(&["0.0.0.0/0", "::/0"]);
    for host in [
        "169.254.169.254",
        "169.254.1.1",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[64:ff9b::169.254.169.254]",
    ] {
        assert!(matches!(verdict(&wide, host), Is(_)), "{host}");
    }
    for host in ["127.0.0.1", "10.0.0.1", "[fd00::1]", "[2002:a01:203::1]"] {
        assert_eq!(verdict(&wide, host), Pass, "{host}");
    }
    let named = with_grants(&["169.254.169.254"]);
    assert_eq!(verdict(&named, "169.254.169.254"), Pass);
}

#[test]
fn a_refusal_says_what_it_is_where_it_came_from_and_what_to_do() {
    let said = |policy: &Policy, address: &str, host: &str| {
        let refused = policy.check(address.parse().unwrap(), host).unwrap_err();
        refused.to_string()
    };
    let strict = with_grants(&[]);
    assert_eq!(
        said(&strict, "10.1.2.3", "gitlab.corp"),
        "gitlab.corp leads to 10.1.2.3, an address of a private network; it is not dialled. \
         If you mean it, add `10.1.2.3`, or the network that it is in, to `allowed_networks`"
    );
    assert!(
        said(&strict, "10.1.2.3", "10.1.2.3").starts_with("10.1.2.3 is an address of a private")
    );
    assert_eq!(
        said(&strict, "64:ff9b::a9fe:a9fe", "64:ff9b::a9fe:a9fe"),
        "64:ff9b::a9fe:a9fe holds 169.254.169.254 (NAT64), a cloud metadata address; it is not dialled. \
         If you mean it, add this one address, `169.254.169.254`, to `allowed_networks`; a network around it is not enough"
    );
    assert_eq!(
        said(
            &on_the_users_word("http://gitlab.corp"),
            "fe80::1",
            "gitlab.corp"
        ),
        "gitlab.corp leads to fe80::1, a link-local address; it is not dialled. \
         If you mean it, write the address itself into the URL ([fe80::1])"
    );
}

#[test]
fn behind_a_proxy_nothing_can_be_checked_so_only_the_users_own_word_has_one() {
    assert!(on_the_users_word("https://gitlab.example.com").allows_proxies());
    assert!(!with_grants(&[]).allows_proxies());
}

/// Every way to write an IPv4 address into an IPv6 address, with the rest of it filled at random.
fn embeddings(four: Ipv4Addr, filling: u128) -> Vec<(&'static str, Ipv6Addr)> {
    let bits = u128::from(four.to_bits());
    let prefix = |text: &str| text.parse::<Ipv6Addr>().unwrap().to_bits();
    // RFC 6052 leaves octet 8 out: bits 56 to 63 from below.
    let around_octet_8 = |below: u32| {
        let spread = bits << below;
        let upper = spread >> 64 << 64;
        let lower = (spread & u128::from(u64::MAX)) >> 8;
        upper | lower
    };
    let random_host = filling & ((1 << 80) - 1);
    [
        ("mapped", prefix("::ffff:0:0") | bits),
        ("compatible", bits),
        ("translated", prefix("::ffff:0:0:0") | bits),
        ("NAT64", prefix("64:ff9b::") | bits),
        ("local NAT64 /96", prefix("64:ff9b:1::") | bits),
        (
            "local NAT64 /48",
            prefix("64:ff9b:1::") | around_octet_8(48),
        ),
        (
            "local NAT64 /56",
            prefix("64:ff9b:1::") | around_octet_8(40),
        ),
        ("local NAT64 /64", prefix("64:ff9b:1::") | (bits << 24)),
        ("6to4", prefix("2002::") | (bits << 80) | random_host),
        (
            "Teredo server",
            prefix("2001::") | (bits << 64) | (filling & u128::from(u64::MAX)),
        ),
        (
            "Teredo client",
            prefix("2001::") | (filling & u128::from(u64::MAX) << 32) | u128::from(!four.to_bits()),
        ),
        (
            "ISATAP",
            prefix("2a00::")
                | (filling >> 16 & (u128::MAX >> 16) & !u128::from(u64::MAX))
                | (0x5efe << 32)
                | bits,
        ),
    ]
    .map(|(name, bits)| (name, Ipv6Addr::from_bits(bits)))
    .to_vec()
}

fn four_of_a_special_network() -> impl Strategy<Value = (Family, Ipv4Addr)> {
    let networks: Vec<_> = special_networks()
        .iter()
        .filter_map(|(network, family)| match network {
            ipnet::IpNet::V4(network) => Some((*network, *family)),
            ipnet::IpNet::V6(_) => None,
        })
        .collect();
    (proptest::sample::select(networks), any::<u32>()).prop_map(|((network, family), random)| {
        let host = random & !network.netmask().to_bits();
        (
            family,
            Ipv4Addr::from_bits(network.network().to_bits() | host),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn no_address_of_a_refused_family_passes_in_any_embedding(
        (family, four) in four_of_a_special_network(),
        filling in any::<u128>(),
    ) {
        let strict = with_grants(&[]);
        prop_assert!(strict.check(four.into(), "x").is_err(), "{four}");
        for (form, six) in embeddings(four, filling) {
            prop_assert!(strict.check(six.into(), "x").is_err(), "{form} {six} carries {four}");
        }
        // `0.…` behind a prefix is how an empty place looks.
        if family.only_by_name() && four.octets()[0] != 0 {
            let users = on_the_users_word("https://gitlab.example.com");
            prop_assert!(users.check(four.into(), "x").is_err(), "{four}");
            for (form, six) in embeddings(four, filling) {
                prop_assert!(users.check(six.into(), "x").is_err(), "{form} {six} carries {four}");
            }
        }
    }

    #[test]
    fn what_the_standard_library_knows_to_be_special_is_refused(bits in any::<u128>(), four in any::<u32>()) {
        let strict = with_grants(&[]);
        let six = Ipv6Addr::from_bits(bits);
        if six.is_loopback() || six.is_multicast() || six.is_unique_local() || six.is_unicast_link_local() || six.is_unspecified() {
            prop_assert!(strict.check(six.into(), "x").is_err(), "{six}");
        }
        let four = Ipv4Addr::from_bits(four);
        let special = four.is_private() || four.is_loopback() || four.is_link_local() || four.is_multicast()
            || four.is_broadcast() || four.is_documentation() || four.is_unspecified();
        if special {
            prop_assert!(strict.check(four.into(), "x").is_err(), "{four}");
        }
    }

    #[test]
    fn a_host_in_any_spelling_is_judged_as_the_address_that_the_parser_makes_of_it(four in any::<u32>()) {
        let strict = with_grants(&[]);
        let address = Ipv4Addr::from_bits(four);
        let [a, b, c, d] = address.octets();
        let wanted = verdict(&strict, &address.to_string());
        for spelling in [
            format!("{four}"),
            format!("{four:#x}"),
            format!("0{four:o}"),
            format!("{a}.{b}.{}", u32::from(c) << 8 | u32::from(d)),
            format!("{a:#x}.0{b:o}.{c}.{d:#x}"),
            format!("{address}."),
            format!("[::ffff:{address}]"),
            format!("user@{address}:8443"),
        ] {
            prop_assert_eq!(verdict(&strict, &spelling), wanted, "{}", spelling);
        }
    }
}

/// Answers what it is told to, and counts how often it is asked.
#[derive(Default)]
struct Fake {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

impl Lookup for Fake {
    fn addresses(&self, _name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers.lock().unwrap().pop_front().unwrap_or_default();
        let answer = answer.into_iter().map(|address| (address, 0).into());
        let answer = answer.collect();
        Box::pin(async move { Ok(answer) })
    }
}

/// A server on this loopback address that closes each connection after its answer, and counts them.
async fn serve(address: &str, port: u16) -> (u16, Arc<AtomicUsize>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind((address, port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let connections = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            let _ = stream.write_all(answer).await;
        }
    });
    (port, count)
}

fn client(policy: Policy, base: &Url, lookup: Arc<Fake>) -> Result<HttpClient, String> {
    let second = Duration::from_secs(1);
    http_client::build_with(base, None, second, &Arc::new(policy), lookup)
}

async fn get(client: &HttpClient, url: &Url) -> Result<Answer, ExchangeError> {
    let mut request = http::Request::default();
    *request.uri_mut() = http_client::uri(url.as_str())?;
    client.send(request).await
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_the_next_time_is_judged_again_and_what_was_judged_is_dialled()
{
    let (port, allowed) = serve("127.0.0.1", 0).await;
    let (_, forbidden) = serve("127.0.0.2", port).await;
    let fake = Arc::new(Fake::default());
    *fake.answers.lock().unwrap() = [
        addresses(&["127.0.0.1"]),
        addresses(&["127.0.0.2"]),
        addresses(&["127.0.0.2", "127.0.0.1", "169.254.169.254"]),
        addresses(&["169.254.169.254", "127.0.0.2"]),
    ]
    .into();
    let base = Url::parse(&format!("http://rebinding.example:{port}/")).unwrap();
    let client = client(with_grants(&["127.0.0.1"]), &base, Arc::clone(&fake)).unwrap();

    assert_eq!(get(&client, &base).await.unwrap().status, 200);
    // A second question between the judgement and the connection would have used up the second answer.
    assert_eq!(fake.asked.load(Ordering::SeqCst), 1);

    let error = get(&client, &base).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Refused(_)), "{error:?}");
    let refusal = error.to_string();
    assert!(
        refusal.starts_with("rebinding.example leads to 127.0.0.2"),
        "{refusal}"
    );

    // Of several answers the allowed one is dialled.
    assert_eq!(get(&client, &base).await.unwrap().status, 200);

    let error = get(&client, &base).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Refused(_)), "{error:?}");
    let refusal = error.to_string();
    assert!(
        refusal.contains("leads to 169.254.169.254, a cloud metadata address"),
        "{refusal}"
    );

    assert_eq!(allowed.load(Ordering::SeqCst), 2);
    assert_eq!(forbidden.load(Ordering::SeqCst), 0);
    assert_eq!(fake.asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_name_without_any_address_is_no_refusal() {
    let base = Url::parse("http://nowhere.example/").unwrap();
    let client = client(with_grants(&[]), &base, Arc::default()).unwrap();
    let error = get(&client, &base).await.unwrap_err();
    assert!(
        matches!(error, ExchangeError::NoConnection { .. }),
        "{error:?}"
    );
}

#[test]
fn a_client_for_an_address_that_may_not_be_dialled_is_not_even_built() {
    for base in [
        "http://127.0.0.1:1/",
        "http://0x7f.1/",
        "https://[::1]/",
        "http://[64:ff9b::a00:1]/",
    ] {
        let base = Url::parse(base).unwrap();
        assert!(
            client(with_grants(&[]), &base, Arc::default()).is_err(),
            "{base}"
        );
        assert!(
            client(Policy::users_word(&base), &base, Arc::default()).is_ok(),
            "{base}"
        );
    }
}
