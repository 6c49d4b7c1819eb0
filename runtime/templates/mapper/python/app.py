"""The mapper {{name}}: what the host calls. The work is in mapping.py."""

import json

from componentize_py_types import Err, Ok
from mapping import map_one
from wit_world import exports
from wit_world.exports.transform import MapperDescription
from wit_world.imports import log

# What the user may choose: `--mapper-config FILE.json`, checked against this schema before `apply` is called.
SETTINGS_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "drop": {
            "type": "array",
            "items": {"type": "string"},
            "default": [],
            "description": "Kinds of record to leave out, such as pipeline.",
        },
    },
}


class Transform(exports.Transform):
    def describe(self):
        return MapperDescription(
            name="{{name}}",
            version="0.1.0",
            summary="Leaves out the kinds of record that are named.",
            settings_schema=json.dumps(SETTINGS_SCHEMA),
        )

    def apply(self, settings, batch):
        """One answer for each experience, in the same order."""
        chosen = json.loads(settings)
        answers = []
        for experience in batch:
            try:
                answers.append(Ok(map_one(chosen, experience)))
            except Exception as error:
                # One record that cannot be mapped becomes a dead letter with these words; the run goes on.
                log.log(log.Level.WARN, str(error), [("record", experience.source_id)])
                answers.append(Err(f"{type(error).__name__}: {error}"))
        return answers
