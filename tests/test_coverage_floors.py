"""Coverage of a module may only rise."""

from tests.coverage_floors import complaints

FLOORS = {"a.py": 80, "b.py": 50}


def test_a_module_below_its_floor_a_new_one_without_tests_and_one_that_is_gone_are_named() -> None:
    assert complaints({"a.py": 80.0, "b.py": 60.0, "new.py": 95.0}, FLOORS) == []
    found = complaints({"a.py": 79.9, "new.py": 20.0}, FLOORS)
    assert [line.split(":")[0] for line in found] == ["a.py", "new.py", "b.py"]
