"""Holds OpenLineage events, one a line on stdin, against the classes of the official client, which are
generated from the official JSON Schemas: each field is one that the schema has and of its type, none that
it requires is missing, values pass the client's own validators, and each object is of the version of the
schema that it names. Objects whose schema has no such class are refused.

Then it spoils a good event in every way that a schema can object to, and each must be refused."""
import copy
import enum
import inspect
import json
import sys
import types
import typing

import attr
from openlineage.client.generated import base
from openlineage.client.generated import input_statistics_input_dataset, job_type_job, output_statistics_output_dataset, symlinks_dataset


class Invalid(Exception):
    pass


def by_schema(*modules):
    """The classes by the URL of their schema."""
    classes = [c for m in modules for _, c in inspect.getmembers(m, inspect.isclass) if hasattr(c, "_get_schema")]
    return {c._get_schema(): c for c in classes}


facets = by_schema(job_type_job, symlinks_dataset, input_statistics_input_dataset, output_statistics_output_dataset)


def take(kind, value, at):
    """Makes value, as JSON has it, an instance of the type kind."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return take(next(a for a in args if a is not type(None)), value, at)  # null is no value in the schemas
    if origin is list and isinstance(value, list):
        return [take(args[0], v, f"{at}[{i}]") for i, v in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {k: facet(args[1], k, v, f"{at}.{k}") for k, v in value.items()}
    if inspect.isclass(kind):
        if attr.has(kind) and isinstance(value, dict):
            return make(kind, value, at)
        if issubclass(kind, enum.Enum):
            return kind(value)
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
    raise Invalid(f"{at}: {value!r} is no {kind}")


def facet(kind, name, value, at):
    """A facet is known by its name: JobTypeJobFacet is jobType among JobFacets."""
    made = take(kind, value, at)
    if type(made).__name__ != name[:1].upper() + name[1:] + kind.__name__:
        raise Invalid(f"{at}: a {type(made).__name__}")
    return made


def make(cls, value, at):
    value = dict(value)
    if issubclass(cls, base.BaseFacet):
        url = value.pop("_schemaURL", None)
        if url not in facets or not issubclass(facets[url], cls):
            raise Invalid(f"{at}: {url} is the schema of no {cls.__name__}")
        cls = facets[url]
        if not value.get("_producer"):
            raise Invalid(f"{at}: no _producer")
    elif issubclass(cls, base.BaseEvent) and (url := value.pop("schemaURL", None)) != cls._get_schema():
        raise Invalid(f"{at}: schema {url}, want {cls._get_schema()}")
    elif issubclass(cls, base.BaseEvent) and not value.get("producer"):
        raise Invalid(f"{at}: no producer")
    kinds = typing.get_type_hints(cls)
    fields = {f.name: f for f in attr.fields(cls) if f.init}
    if strange := value.keys() - fields.keys():
        raise Invalid(f"{at}: unknown {strange}")
    if missing := {n for n, f in fields.items() if f.default is attr.NOTHING} - value.keys():
        raise Invalid(f"{at}: no {missing}")
    return cls(**{fields[n].alias: take(kinds[n], v, f"{at}.{n}") for n, v in value.items()})


def accepts(event):
    try:
        make(base.RunEvent, event, "event")
    except (Invalid, ValueError, TypeError) as e:
        return str(e) or repr(e)
    return None


def places(value, path=()):
    """The paths of everything in value."""
    yield path
    for k, v in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(v, (*path, k))


def spoilt(event):
    """Copies of a good event, each with one fault, and what it is."""
    def with_value(path, change):
        e = copy.deepcopy(event)
        holder = e
        for k in path[:-1]:
            holder = holder[k]
        change(holder, path[-1])
        return e

    optional = {"eventType", "inputs", "outputs", "facets", "inputFacets", "outputFacets", "jobType", "symlinks", "inputStatistics", "outputStatistics", "rowCount", "size", "identifiers"}
    for path in places(event):
        if not path:
            continue
        at = ".".join(map(str, path))
        yield f"{at} is of another type", with_value(path, lambda h, k: h.__setitem__(k, [7] if not isinstance(h[k], list) else 7))
        yield f"{at} is null", with_value(path, lambda h, k: h.__setitem__(k, None))
        if isinstance(path[-1], str):
            if path[-1] not in optional:
                yield f"{at} is missing", with_value(path, lambda h, k: h.__delitem__(k))
            yield f"{at} is misspelt", with_value(path, lambda h, k: h.__setitem__(k + "X", h.pop(k)))
    for path, value in {("eventType",): "RUN", ("eventTime",): "2026-02-28", ("run", "runId"): "f-orders", ("schemaURL",): "https://openlineage.io/spec/2-0-1/OpenLineage.json#/$defs/RunEvent"}.items():
        yield f"{'.'.join(path)} is {value}", with_value(path, lambda h, k, value=value: h.__setitem__(k, value))


def main():
    events = [json.loads(line) for line in sys.stdin]
    refused = [(e, why) for e in events if (why := accepts(e))]
    for e, why in refused[:10]:
        print(f"refused: {why}: {json.dumps(e)}", file=sys.stderr)
    print("PASS" if events and not refused else "FAIL", "events-are-those-of-the-schemas")
    missed = [what for what, e in spoilt(events[0]) if not accepts(e)] if events else ["all"]
    for what in missed:
        print(f"taken although {what}", file=sys.stderr)
    print("FAIL" if missed else "PASS", "spoilt-events-are-refused")
    print(f"{len(events)} events, {len(list(spoilt(events[0]))) if events else 0} spoilt ones", file=sys.stderr)


main()
