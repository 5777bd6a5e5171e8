"""How much a test set can show: differences that it would find, and how many patients a question needs."""

import math

from scipy import optimize, special

from medjax.errors import UserError

POWER = 0.8
ALPHA = 0.05


def minimum_detectable_difference(
  n: int, discordance: float = 0.2, power: float = POWER, alpha: float = ALPHA
) -> float | None:
  """Smallest difference of two paired proportions (accuracies) that a test of n items is likely to find.

  For planning, before there are answers; `detectable` reads it off answers. Solves Connor's sample size for McNemar's
  test (Connor 1987), n d^2 = (z_alpha/2 sqrt(D) + z_power sqrt(D - d^2))^2, for the difference d, with D the share of
  items on which exactly one of the two methods is right.

  Args:
    n: items, independent of one another.
    discordance: D, an assumption: 0.2 suits two methods of moderate accuracy that mostly agree.
    power: probability of finding the difference.
    alpha: two-sided level of the test.

  Returns:
    The difference, or None where not even d = D, every discordant item in favour of one method, would be found.

  Raises:
    UserError: n below 1, or a discordance that is not in (0, 1].
  """
  if n < 1 or not 0 < discordance <= 1:
    raise UserError(f"n = {n} and discordance = {discordance}; give n of at least 1 and a discordance in (0, 1]")
  z_alpha, z_power = -special.ndtri(alpha / 2), special.ndtri(power)

  def shortfall(d):
    return z_alpha * math.sqrt(discordance) + z_power * math.sqrt(discordance - d * d) - math.sqrt(n) * d

  return float(optimize.brentq(shortfall, 0, discordance)) if shortfall(discordance) <= 0 else None


def detectable(error: float, groups: int, span: tuple[float, float] | None) -> float | None:
  """The true difference that one test (two-sided 5 %, not adjusted) on these groups would find with 80 % power.

  It is (t + z) standard errors, the error being that of the difference at hand, so of these answers as they pair up.
  Where no group differs there is no error to go by: then it is the share of groups that must change in one direction
  for six changes, the fewest that McNemar's exact test calls significant, to be found, times the metric's span.

  Args:
    error: standard error of the difference.
    groups: their number.
    span: lowest and highest value of the metric; None where it has no bounds.

  Returns:
    The difference in the metric's unit; None where nothing says.
  """
  if error > 0:
    return float((special.stdtrit(groups - 1, 1 - ALPHA / 2) + special.ndtri(POWER)) * error)
  fewest = math.ceil(1 - math.log2(ALPHA))
  if span is None or groups < fewest:
    return None
  # P(at least k of n groups change) is the distribution function of a beta(k, n - k + 1) at the share that changes.
  return float(special.betaincinv(fewest, groups - fewest + 1, POWER) * (span[1] - span[0]))


def groups_needed(error: float, groups: int, distance: float, family: int = 1) -> int:
  """Groups from which a true value would be told from one at `distance` with 80 % power, two-sided 5 %.

  Args:
    error: standard error of the estimate from `groups` of them; it shrinks with their square root.
    groups: those at hand.
    distance: above 0.
    family: comparisons among which the level is shared (Bonferroni; Holm's first step).
  """
  z = special.ndtri(POWER) - special.ndtri(ALPHA / 2 / family)
  return math.ceil(groups * (z * error / distance) ** 2)
