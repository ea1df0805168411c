"""The conformance kit: what every plugin must hold, as checks that its own tests run.

A plugin's tests need three lines::

    from smolrecipe.testing import conformance

    test_contract = conformance("simpo")

and every check of everything that the plugin ``simpo`` offers becomes a test with a name, for example
``test_contract[loss simpo: gradients push the right way]``. Installing smolrecipe also gives pytest the fixtures of
``smolrecipe.testing.pytest_plugin``.
"""

from smolrecipe.testing.conformance import conformance
from smolrecipe.testing.contract import Check, ContractError, checks_of

__all__ = ["Check", "ContractError", "checks_of", "conformance"]
