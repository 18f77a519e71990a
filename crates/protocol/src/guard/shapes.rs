//! What the table of request shapes is made of.

/// What the elements of a shape are made of, in order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// So many bytes of numbers.
    Fixed(u16),
    /// Length i16 and bytes; whether null is allowed.
    String(bool),
    /// Length + 1 as unsigned varint and bytes; whether null is allowed.
    CompactString(bool),
    /// Length i32 and bytes; whether null is allowed. Records are such a field.
    Bytes(bool),
    /// Length + 1 as unsigned varint and bytes; whether null is allowed.
    CompactBytes(bool),
    /// Count i32 and elements of a shape.
    Array { nullable: bool, element: u16 },
    /// Count + 1 as unsigned varint and elements of a shape.
    CompactArray { nullable: bool, element: u16 },
    /// A struct behind a byte that is negative when it is missing.
    Nullable(u16),
    /// Tagged fields: the shapes of known ones by tag.
    Tags(&'static [(u32, u16)]),
}

/// The shape of a struct or an array's element.
#[derive(Debug)]
pub(super) struct Shape {
    /// Least bytes on the wire, never 0.
    pub(super) len_min: u16,
    /// Bytes one decoded element takes in its vector.
    pub(super) memory: u16,
    pub(super) steps: &'static [Step],
}

/// The shapes of one request's versions.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) key: i16,
    pub(super) version_min: i16,
    /// By version, from `version_min`.
    pub(super) shapes: &'static [u16],
}
