"""Nothing is compiled here. A wheel that carries libmoet (scripts/build_wheel.sh) is of one platform, others of any."""
import os

from setuptools import Distribution, setup

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1
    from wheel.bdist_wheel import bdist_wheel

carries_library = os.path.isdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "moe_tune", "lib"))


class PlatformWheel(bdist_wheel):
    def get_tag(self):
        _, _, platform = super().get_tag()
        return "py3", "none", os.environ.get("MOET_WHEEL_PLATFORM", platform)


class PlatformDistribution(Distribution):
    def has_ext_modules(self):
        return True


setup(**({"cmdclass": {"bdist_wheel": PlatformWheel}, "distclass": PlatformDistribution} if carries_library else {}))
