"""Frozen slotted records, made without the price of `dataclasses`.

Importing `dataclasses` brings `inspect`, and each class that it makes runs the compiler: 128 classes were half of what a command line spent on imports.
Here a class is made with functions that all records share; one that is made often gets a compiled `__init__` then. Semantics are those of
`dataclasses` for what this project uses: defaults, factories, `frozen`, `slots`, `kw_only`, inheritance, comparison, hash, `repr`, `match`, copying, and
`dataclasses.fields` or `replace` on a record work as well. Type checkers read the standard decorator. Imports nothing; anybody may import it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass, field, fields, replace
else:

    class _Missing:
        def __repr__(self):
            return "MISSING"

    _MISSING = _Missing()
    _GENERIC_CALLS = 32  # compiling an `__init__` costs about as much as a hundred generic ones save

    class _Spec:
        """What the decorator knows of one field."""

        __slots__ = ("default", "factory", "keyword", "name", "type")

        def __init__(self, default, factory):
            self.default = default
            self.factory = factory
            self.keyword = False
            self.name = ""
            self.type = ""

    class _StandardFields:
        """``__dataclass_fields__``, made when somebody asks: `dataclasses.fields`, `replace` and `is_dataclass` do."""

        def __get__(self, instance, owner):
            import dataclasses

            made = {}
            for spec in owner.__record_fields__:
                given = {} if spec.default is _MISSING else {"default": spec.default}
                if spec.factory is not _MISSING:
                    given["default_factory"] = spec.factory
                made[spec.name] = entry = dataclasses.field(kw_only=spec.keyword, **given)
                entry.name, entry.type, entry._field_type = spec.name, spec.type, dataclasses._FIELD
            owner.__dataclass_fields__ = made
            return made

    def field(*, default=_MISSING, default_factory=_MISSING):
        """See `dataclasses.field`."""
        return _Spec(default, default_factory)

    def dataclass(cls=None, /, *, frozen=False, slots=False, kw_only=False):
        """See `dataclasses.dataclass`."""
        if cls is None:
            return lambda cls: _make(cls, frozen, slots, kw_only)
        return _make(cls, frozen, slots, kw_only)

    def replace(record, /, **changes):
        """See `dataclasses.replace`."""
        cls = type(record)
        copy = cls.__dict__.get("__record_copy__")
        if copy is None:
            copy = _compile_copy(cls)
        if copy is not _MISSING:
            made = copy(record)
            for name, value in changes.items():
                if name not in cls.__record_names__:
                    raise TypeError(f"{cls.__name__}() got an unexpected keyword argument {name!r}")
                _assign(made, name, value)
            return made
        for spec in cls.__record_fields__:
            if spec.name not in changes:
                changes[spec.name] = getattr(record, spec.name)
        return cls(**changes)

    _assign = object.__setattr__
    _replaced: dict[type, int] = {}

    def _compile_copy(cls):
        """Return a function that copies a record of a class of which many are replaced; `_MISSING` as long as it is not worth its price."""
        if "__record_fields__" not in cls.__dict__:
            return _MISSING
        count = _replaced[cls] = _replaced.get(cls, 0) + 1
        if count < _GENERIC_CALLS:
            return _MISSING
        if "__post_init__" in cls.__dict__:
            made = _MISSING
        else:
            names = {"_assign": _assign, "_new": object.__new__, "_cls": cls}
            lines = [f" _assign(made, {spec.name!r}, record.{spec.name})" for spec in cls.__record_fields__]
            exec("\n".join(["def copy(record):", " made = _new(_cls)", *lines, " return made"]), names)
            made = names["copy"]
        cls.__record_names__ = frozenset(spec.name for spec in cls.__record_fields__)
        cls.__record_copy__ = made
        return made

    def fields(record):
        """See `dataclasses.fields`."""
        import dataclasses

        return dataclasses.fields(record)

    def _make(cls, frozen, slots, kw_only):
        inherited = {}
        for base in reversed(cls.__mro__[1:]):
            for spec in base.__dict__.get("__record_fields__", ()):
                inherited[spec.name] = spec
        namespace = dict(cls.__dict__)
        own = []
        for name, annotation in namespace.get("__annotations__", {}).items():
            if annotation.startswith(("ClassVar", "typing.ClassVar")):
                continue
            given = namespace.get(name, _MISSING)
            spec = given if isinstance(given, _Spec) else _Spec(given, _MISSING)
            if spec.default is not _MISSING and spec.default.__class__.__hash__ is None:
                raise ValueError(f"mutable default for field {name}: use default_factory")
            spec.name, spec.type, spec.keyword = name, annotation, kw_only
            inherited[name] = spec
            own.append(spec)
            if slots or spec.default is _MISSING:
                namespace.pop(name, None)
            else:
                namespace[name] = spec.default
        specs = tuple(inherited.values())
        if slots:
            namespace["__slots__"] = tuple(spec.name for spec in own)
            namespace.pop("__dict__", None)
            namespace.pop("__weakref__", None)
        namespace["__record_fields__"] = specs
        namespace["__dataclass_fields__"] = _StandardFields()
        namespace["__match_args__"] = tuple(spec.name for spec in specs if not spec.keyword)
        namespace.setdefault("__init__", _generic_init(specs, frozen))
        namespace.setdefault("__repr__", _repr)
        if "__eq__" not in namespace:
            namespace["__eq__"] = _equal
            # A class that defines equality and no hash has none: what changes cannot be a key.
            namespace.setdefault("__hash__", _hash if frozen else None)
        if frozen:
            namespace.setdefault("__setattr__", _refuse_set)
            namespace.setdefault("__delattr__", _refuse_delete)
            if slots:
                namespace.setdefault("__getstate__", _get_state)
                namespace.setdefault("__setstate__", _set_state)
        made = type(cls)(cls.__name__, cls.__bases__, namespace)
        made.__qualname__ = cls.__qualname__
        return made

    def _generic_init(specs, frozen):
        calls = 0

        def __init__(self, *args, **given):
            nonlocal calls
            calls += 1
            if calls == _GENERIC_CALLS:
                cls = type(self)
                if cls.__dict__.get("__init__") is __init__:
                    cls.__init__ = _compiled_init(cls, specs, frozen)
            assign = object.__setattr__
            if args:
                places = [spec for spec in specs if not spec.keyword]
                if len(args) > len(places):
                    raise TypeError(f"{type(self).__name__}() takes {len(places)} positional arguments but {len(args)} were given")
                for spec, value in zip(places, args, strict=False):
                    if spec.name in given:
                        raise TypeError(f"{type(self).__name__}() got multiple values for argument {spec.name!r}")
                    given[spec.name] = value
            used = 0
            for spec in specs:
                name = spec.name
                if name in given:
                    assign(self, name, given[name])
                    used += 1
                elif spec.default is not _MISSING:
                    assign(self, name, spec.default)
                elif spec.factory is not _MISSING:
                    assign(self, name, spec.factory())
                else:
                    missing = ", ".join(spec.name for spec in specs if spec.name not in given and _is_needed(spec))
                    raise TypeError(f"{type(self).__name__}() is missing arguments: {missing}")
            if used != len(given):
                unknown = next(name for name in given if all(spec.name != name for spec in specs))
                raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {unknown!r}")
            if "__post_init__" in type(self).__dict__:
                self.__post_init__()

        return __init__

    def _is_needed(spec):
        return spec.default is _MISSING and spec.factory is _MISSING

    def _compiled_init(cls, specs, frozen):
        names = {"_assign": object.__setattr__, "_MISSING": _MISSING}
        positional, keywords, body = [], [], []
        for at, spec in enumerate(specs):
            default = ""
            if spec.default is not _MISSING:
                names[f"_d{at}"] = spec.default
                default = f"=_d{at}"
            elif spec.factory is not _MISSING:
                names[f"_f{at}"] = spec.factory
                default = "=_MISSING"
            (keywords if spec.keyword else positional).append(spec.name + default)
            value = spec.name if spec.factory is _MISSING else f"_f{at}() if {spec.name} is _MISSING else {spec.name}"
            body.append(f" _assign(self, {spec.name!r}, {value})" if frozen else f" self.{spec.name} = {value}")
        if "__post_init__" in cls.__dict__:
            body.append(" self.__post_init__()")
        signature = ", ".join(["self", *positional, *(["*", *keywords] if keywords else [])])
        exec(f"def __init__({signature}):\n" + "\n".join(body or [" pass"]), names)
        made = names["__init__"]
        made.__qualname__ = f"{cls.__qualname__}.__init__"
        return made

    def _values(record):
        return (type(record).__dict__.get("__record_values__") or _make_getter(type(record)))(record)

    def _make_getter(cls):
        from _operator import attrgetter

        names = [spec.name for spec in cls.__record_fields__]
        if len(names) > 1:
            get = attrgetter(*names)
        else:

            def get(record):
                return tuple([getattr(record, name) for name in names])

            get = staticmethod(get)
        cls.__record_values__ = get
        return cls.__dict__["__record_values__"]

    def _repr(self):
        return f"{type(self).__qualname__}({', '.join(f'{spec.name}={getattr(self, spec.name)!r}' for spec in self.__record_fields__)})"

    def _equal(self, other):
        if type(other) is not type(self):
            return NotImplemented
        return self is other or _values(self) == _values(other)

    def _hash(self):
        return hash(_values(self))

    def _refuse_set(self, name, value):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def _refuse_delete(self, name):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def _get_state(self):
        return list(_values(self))

    def _set_state(self, state):
        for spec, value in zip(self.__record_fields__, state, strict=True):
            object.__setattr__(self, spec.name, value)


__all__ = ["dataclass", "field", "fields", "replace"]
