//! A URL that a flow wants to reach, and a redirect that comes back: first line the URL, second the `Location`.
#![no_main]

use std::net::IpAddr;

use ap_runtime::egress::{
    address::special_class,
    guard::EgressPolicy,
    url::CheckedUrl,
};
use libfuzzer_sys::fuzz_target;

fn check(checked: &CheckedUrl) {
    let url = checked.as_url();
    assert!(matches!(url.scheme(), "http" | "https"));
    assert!(url.username().is_empty() && url.password().is_none());
    let host = url.host_str().expect("a host");
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        assert_eq!(special_class(address), None, "{url}");
    }
    assert!(host != "localhost" && !host.ends_with(".localhost"), "{url}");
    assert!(url.as_str().starts_with(checked.origin().as_str()) || url.port_or_known_default().is_some());
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (first, location) = text.split_once('\n').unwrap_or((text, "/"));
    let policy = EgressPolicy::default();
    let Ok(checked) = CheckedUrl::parse(first, &policy) else { return };
    check(&checked);
    if let Ok(next) = checked.redirect(location, &policy) {
        check(&next);
    }
});
