"""Enumerations of texts and numbers, made without the price of `enum`.

Importing `enum` brings `functools`, `collections`, `operator` and `types`: a third of what a bare interpreter takes to start, and each class another tenth of a
millisecond. Semantics are those of `enum` for what this project uses: lookup by value, by name and by attribute, iteration, membership, `match`,
comparison and hash as the value's own, `str`, `repr`, copying and pickling. Type checkers read the standard classes. Imports nothing; anybody may
import it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enum import IntEnum, IntFlag, StrEnum
else:

    class _Meta(type):
        def __new__(mcls, name, bases, namespace):
            given = {key: value for key, value in namespace.items() if not key.startswith("_") and isinstance(value, (str, int))}
            cls = type.__new__(mcls, name, bases, namespace)
            members, values = {}, {}
            for key, value in given.items():
                member = values.get(value)  # a second name of a value is another name of the member
                if member is None:
                    member = values[value] = _new_member(cls, key, value)
                members[key] = member
                type.__setattr__(cls, key, member)
            type.__setattr__(cls, "_value2member_map_", values)
            type.__setattr__(cls, "__members__", members)
            return cls

        def __call__(cls, value):
            member = cls._value2member_map_.get(value)
            return cls._missing(value) if member is None else member

        def _missing(cls, value):
            raise ValueError(f"{value!r} is not a valid {cls.__qualname__}")

        def __getitem__(cls, name):
            return cls.__members__[name]

        def __iter__(cls):
            return iter(cls._value2member_map_.values())

        def __len__(cls):
            return len(cls._value2member_map_)

        def __contains__(cls, value):
            return value in cls._value2member_map_

        def __setattr__(cls, name, value):
            if name in cls.__members__:
                raise AttributeError(f"cannot reassign member {name!r}")
            type.__setattr__(cls, name, value)

        def __repr__(cls):
            return f"<enum {cls.__qualname__!r}>"

    def _new_member(cls, name, value):
        member = cls.__mro__[-2].__new__(cls, value)  # str or int, which comes last before object
        member.__dict__.update(name=name, value=value, _name_=name, _value_=value)
        return member

    class _Member:
        def __setattr__(self, name, value):
            raise AttributeError(f"cannot set attribute {name!r} of a member")

        def __repr__(self):
            return f"<{type(self).__qualname__}.{self.name}: {self.value!r}>"

        def __reduce_ex__(self, protocol):
            return type(self), (self.value,)

    class StrEnum(_Member, str, metaclass=_Meta):
        """See `enum.StrEnum`."""

        __str__ = str.__str__
        __format__ = str.__format__

    class IntEnum(_Member, int, metaclass=_Meta):
        """See `enum.IntEnum`."""

        __str__ = int.__repr__
        __format__ = int.__format__

    class _FlagMeta(_Meta):
        def _missing(cls, value):
            return _new_member(cls, None, value)

    class IntFlag(_Member, int, metaclass=_FlagMeta):
        """See `enum.IntFlag`; combinations have no name."""

        __str__ = int.__repr__
        __format__ = int.__format__

        def __or__(self, other):
            return type(self)(int(self) | int(other))

        def __and__(self, other):
            return type(self)(int(self) & int(other))


__all__ = ["IntEnum", "IntFlag", "StrEnum"]
