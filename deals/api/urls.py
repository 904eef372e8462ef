"""Paths of the simulator's clients."""

urlpatterns: list[object] = []
