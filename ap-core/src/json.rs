//! Parsing JSON from outside under limits, and RFC 6901 pointers.

use std::borrow::Cow;

/// Escapes one pointer segment (RFC 6901 §3): `~` as `~0`, `/` as `~1`.
#[must_use]
pub fn pointer_escape(segment: &str) -> Cow<'_, str> {
    if segment.contains(['~', '/']) {
        Cow::Owned(segment.replace('~', "~0").replace('/', "~1"))
    } else {
        Cow::Borrowed(segment)
    }
}

/// Appends one segment, a key or an index in decimal, to a pointer.
pub fn push_pointer(pointer: &mut String, segment: &str) {
    pointer.push('/');
    pointer.push_str(&pointer_escape(segment));
}
