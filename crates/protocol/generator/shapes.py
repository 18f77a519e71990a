#!/usr/bin/env python3
"""Writes src/guard/table.rs: the shape of every request of Apache Kafka, per API key and version.

The facts come from the message definitions (JSON) inside the kafka-clients jar. Fetch the jar and run:

    mvn dependency:get -Dartifact=org.apache.kafka:kafka-clients:4.3.1
    python3 crates/protocol/generator/shapes.py \\
        ~/.m2/repository/org/apache/kafka/kafka-clients/4.3.1/kafka-clients-4.3.1.jar \\
        > crates/protocol/src/guard/table.rs

The output depends on the jar alone. A shape is a list of steps; equal shapes are written once. `memory` is what
one decoded element takes in a Rust vector: it follows the field types that the decoder uses.
"""
import json
import re
import sys
import zipfile

# type: (bytes on the wire, bytes in memory)
FIXED = {
    "bool": (1, 1), "int8": (1, 1), "int16": (2, 2), "uint16": (2, 2), "int32": (4, 4), "uint32": (4, 4),
    "int64": (8, 8), "float64": (8, 8), "uuid": (16, 16),
}
BYTES_LIKE = 32  # a `Bytes` handle
VEC = 24
TAG_MAP = 24


def versions(text):
    """The range of versions `text` stands for, as a predicate."""
    if text in (None, "none"):
        return lambda version: False
    low, _, high = text.partition("-")
    if text.endswith("+"):
        return lambda version: version >= int(text[:-1])
    return lambda version: int(low) <= version <= int(high or low)


class Table:
    def __init__(self):
        self.shapes = []
        self.index = {}

    def add(self, len_min, memory, steps):
        assert len_min > 0, "an element without bytes could be claimed without end"
        shape = (len_min, memory, tuple(steps))
        if shape not in self.index:
            self.index[shape] = len(self.shapes)
            self.shapes.append(shape)
        return self.index[shape]


class Message:
    """One request of one version."""

    def __init__(self, table, schema, version):
        self.table, self.version = table, version
        self.structs = {struct["name"]: struct["fields"] for struct in schema.get("commonStructs", [])}
        self.flexible = versions(schema["flexibleVersions"])(version)
        self.ever_flexible = schema["flexibleVersions"] != "none"

    def fields_of(self, field, name):
        return field.get("fields") or self.structs[name]

    def memory(self, fields):
        """Bytes of the decoded struct, which has the fields of all versions."""
        total = TAG_MAP if self.ever_flexible else 0
        for field in fields:
            kind = field["type"]
            if kind.startswith("[]"):
                total += VEC
            elif kind in FIXED:
                total += FIXED[kind][1]
            elif kind in ("string", "bytes", "records"):
                total += BYTES_LIKE
            else:
                total += self.memory(self.fields_of(field, kind)) + 8
        return (total + 7) // 8 * 8

    def shape(self, fields, memory):
        """Index of the shape of a struct with these fields."""
        len_min, steps = self.struct(fields)
        return self.table.add(len_min, memory, steps)

    def struct(self, fields):
        len_min, steps, tags = 0, [], []
        for field in fields:
            if not versions(field["versions"])(self.version):
                continue
            if versions(field.get("taggedVersions"))(self.version):
                tags.append((field["tag"], self.table.add(*self.tagged(field))))
                continue
            field_min, field_steps = self.field(field)
            len_min += field_min
            for step in field_steps:
                if steps and step[0] == steps[-1][0] == "Fixed":
                    steps[-1] = ("Fixed", steps[-1][1] + step[1])
                else:
                    steps.append(step)
        if self.flexible:
            len_min += 1
            steps.append(("Tags", tuple(sorted(tags))))
        return len_min, steps

    def tagged(self, field):
        field_min, steps = self.field(field)
        return max(field_min, 1), 0, steps

    def field(self, field):
        """Least bytes and steps of a field."""
        kind = field["type"]
        nullable = versions(field.get("nullableVersions"))(self.version)
        compact = "Compact" if self.flexible else ""
        if kind in FIXED:
            return FIXED[kind][0], [("Fixed", FIXED[kind][0])]
        if kind == "string":
            return (1 if compact else 2), [(compact + "String", nullable)]
        if kind in ("bytes", "records"):
            return (1 if compact else 4), [(compact + "Bytes", nullable)]
        if kind.startswith("[]"):
            return (1 if compact else 4), [(compact + "Array", nullable, self.element(field, kind[2:]))]
        fields = self.fields_of(field, kind)
        if nullable:
            return 1, [("Nullable", self.shape(fields, self.memory(fields)))]
        return self.struct(fields)

    def element(self, field, kind):
        if kind in FIXED:
            return self.table.add(*FIXED[kind], [("Fixed", FIXED[kind][0])])
        if kind in ("string", "bytes"):
            len_min, steps = self.field({"type": kind})
            return self.table.add(len_min, BYTES_LIKE, steps)
        fields = self.fields_of(field, kind)
        return self.shape(fields, self.memory(fields))


def rust(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def step_text(step):
    if step[0] == "Tags":
        return "Tags(&[" + ", ".join(f"({tag}, {shape})" for tag, shape in step[1]) + "])"
    if step[0].endswith("Array"):
        return f"{step[0]} {{ nullable: {rust(step[1])}, element: {step[2]} }}"
    return f"{step[0]}({rust(step[1])})"


def load(jar):
    with zipfile.ZipFile(jar) as archive:
        for name in sorted(archive.namelist()):
            if re.fullmatch(r"common/message/\w+Request\.json", name):
                text = archive.read(name).decode()
                schema = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.M))
                if schema["validVersions"] != "none":
                    yield schema


def main():
    jar = sys.argv[1]
    release = re.search(r"kafka-clients-([\d.]+)\.jar", jar).group(1)
    table, requests = Table(), []
    for schema in sorted(load(jar), key=lambda schema: schema["apiKey"]):
        low, _, high = schema["validVersions"].partition("-")
        low, high = int(low), int(high or low)
        shapes = []
        for version in range(low, high + 1):
            message = Message(table, schema, version)
            len_min, steps = message.struct(schema["fields"])
            shapes.append(table.add(max(len_min, 1), message.memory(schema["fields"]), steps))
        requests.append((schema["apiKey"], schema["name"], low, shapes))
    print(f"""//! The shapes of all requests of Apache Kafka {release}. Made by `generator/shapes.py`, which says how; not to be
//! edited.

use super::Step::{{
    Array, Bytes, CompactArray, CompactBytes, CompactString, Fixed, Nullable, String, Tags,
}};
use super::{{Request, Shape}};

#[rustfmt::skip]
pub(super) static SHAPES: &[Shape] = &[""")
    for index, (len_min, memory, steps) in enumerate(table.shapes):
        text = ", ".join(step_text(step) for step in steps)
        print(f"    /* {index} */ Shape {{ len_min: {len_min}, memory: {memory}, steps: &[{text}] }},")
    print("];\n\n#[rustfmt::skip]\npub(super) static REQUESTS: &[Request] = &[")
    for key, name, low, shapes in requests:
        print(f"    /* {name} */ Request {{ key: {key}, version_min: {low}, shapes: &{shapes} }},")
    print("];")


main()
