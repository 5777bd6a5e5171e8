"""Names of machines, as the compiler and as the cloud has them, and what is published of them."""

import pytest

from medjax.errors import UserError
from medjax.hardware import topologies


@pytest.mark.parametrize(
  ("name", "compiler", "chips"),
  [
    ("v5e:4x4", "v5e:4x4", 16),
    ("v5litepod-16", "v5e:4x4", 16),
    ("v6e-256", "v6e:16x16", 256),
    ("v5p-8", "v5p:2x2x1", 4),  # the cloud counts cores of v4 and v5p
    ("v4-16", "v4:2x2x2", 8),
    ("tpu7x:2x2x1", "tpu7x:2x2x1", 4),
    ("h100:2x8x1", "h100:2x8x1", 16),
  ],
)
def test_names(name, compiler, chips):
  topology = topologies.parse(name)
  assert (topology.name, topology.chips) == (compiler, chips)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("v5x:2x2", "did you mean v5"),
    ("potato", "v5e:4x4, v5p:2x2x2"),
    ("v5p-6", "v5p-8, v5p-16"),
    ("v5p-9", "v5p-8, v5p-16"),
    ("v5e:2x2x2", "needs 2 sizes"),
    ("v5p:2x2", "needs 3 sizes"),
    ("v5e:0x4", "needs 2 sizes"),
  ],
)
def test_unknown_names_are_answered_with_known_ones(name, message):
  with pytest.raises(UserError, match=message):
    topologies.parse(name)


def test_shapes_that_the_compiler_refuses():
  with pytest.raises(UserError, match="knows no machine v5e:3x5"):
    topologies.compile_devices(topologies.parse("v5e:3x5"))


@pytest.mark.parametrize("family", topologies.CHIPS)
def test_each_chip_has_a_peak_and_clocks_are_near_one_another(family):
  chip = topologies.CHIPS[family]
  assert chip.flops > 1e14
  assert family == "h100" or 1e9 < chip.clock < 2.5e9


def test_links_that_lead_somewhere():
  def of(name):
    return topologies.parse(name).interconnect

  link = topologies.CHIPS["v5e"].link_bandwidth
  assert of("v5e:2x2") == (2 * link, 2 * link)  # one neighbour along each axis
  assert of("v5e:4x4") == (2 * link, 4 * link)
  assert of("h100:1x1x8")[0] == 450e9
  assert of("h100:1x2x8")[0] == 50e9
