"""The component: what the host calls, and nothing that decides anything."""

import json

import entries
from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.exports.transform import MapperDescription
from wit_world.imports import log

SETTINGS_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "event_types": {
            "type": "array",
            "items": {"type": "string"},
            "default": ["release"],
            "description": "Which kinds of record are split.",
        },
        "least": {
            "type": "integer",
            "minimum": 1,
            "default": 2,
            "description": "Notes with fewer entries stay whole.",
        },
    },
}


class Transform(exports.Transform):
    def describe(self):
        return MapperDescription(
            name="entries",
            version="0.1.0",
            summary="Splits release notes into one experience per entry.",
            settings_schema=json.dumps(SETTINGS_SCHEMA),
        )

    def apply(self, settings, batch):
        chosen = json.loads(settings)
        event_types = chosen.get("event_types", ["release"])
        least = chosen.get("least", 2)
        answers = []
        for experience in batch:
            if experience.event_type not in event_types:
                answers.append(Ok([experience]))
                continue
            try:
                answers.append(Ok(entries.split(experience, least)))
            except Exception as error:  # One record must not end the run: it becomes a dead letter with these words.
                log.log(log.Level.WARN, "release notes not split", [("record", experience.source_id)])
                answers.append(Err(f"{type(error).__name__}: {error}"))
        return answers
