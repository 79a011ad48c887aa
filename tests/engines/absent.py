"""Stand-ins for packages that an engine imports at its top and that its cache code never uses (kernels, servers, images)."""

import importlib.abc
import importlib.machinery
import sys
import types


class Anything:
    """Whatever is asked of it: a class to inherit from, a decorator, a constant."""

    def __init__(self, *args, **kwargs):
        pass

    def __init_subclass__(cls, **kwargs):
        pass

    def __class_getitem__(cls, item):
        return cls

    def __call__(self, *args, **kwargs):
        # a decorator gives back what it decorates
        return args[0] if len(args) == 1 and not kwargs and callable(args[0]) else self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __or__(self, other):
        return object

    __ror__ = __or__


class _Module(types.ModuleType):
    __path__ = ()  # a package

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (Anything,), {}) if name[:1].isupper() else Anything()
        setattr(self, name, made)
        return made


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module that it wants."""

    def __init__(self, wants):
        self.wants = wants

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if self.wants(name) else None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        module.__version__ = "0"


def _importer():
    """The top package of the module whose import statement is being run."""
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("importlib") and name != __name__:
            return name.split(".")[0]
        frame = frame.f_back
    return ""


def stand_in(package, there, instead_of=()):
    """Let every import that a package makes succeed, but those of the packages `there`; `instead_of` of its own are put aside."""
    known = {package, *there, *sys.stdlib_module_names}
    sys.meta_path.insert(
        0, Absent(lambda name: any(name == one or name.startswith(one + ".") for one in instead_of))
    )
    sys.meta_path.append(Absent(lambda name: name.split(".")[0] not in known and _importer() == package))
