"""What takes the place of one experience: [] drops it, several split it. Pure: the same input gives the same output.

An experience has source_id, event_type, modality, content, observed_at, recorded_at, author, labels (strings), attributes (pairs),
preceded_by and thread. `wit/types.wit` explains each.
"""


def map_one(settings, experience):
    if experience.event_type in settings.get("drop", []):
        return []
    return [experience]
