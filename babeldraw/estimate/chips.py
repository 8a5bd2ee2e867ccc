"""What a TPU chip can do at most, by its published figures."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip, all its cores together.

    Attributes:
      config: libtpu's name for how cores are seen: `megacore` joins the two of a chip.
      hbm_gib: what the compiler lets a program use, GiB, as it says when one is too large.
      peak: bfloat16 operations of the matrix units, per second.
      bandwidth: of the main memory (HBM), bytes per second.
      link: of one link to a neighbour, bytes per second and direction.
      dims: of the torus.
      clock: of the cores, Hz.
      vector: element-wise operations per second.
      network: bytes per second and direction between slices (data-centre network).
    """

    config: str
    hbm_gib: float
    peak: float
    bandwidth: float
    link: float
    dims: int
    clock: float
    vector: float
    network: float = 6.25e9


# Peak, bandwidth and links: cloud.google.com/tpu/docs. Clock: peak / (4 units of 128 x 128
# multiply-adds x cores) on v4, v5e and v5p, four units of 256 x 256 on v6e. Vector units: 128 lanes
# of 16 ALUs per core on v4 (Jouppi et al. 2023, section 2), 8 x 128 of 4 on the later ones.
CHIPS: dict[str, Chip] = {
    "v4": Chip("megacore", 30.75, 275e12, 1.2288e12, 45e9, 3, 1.05e9, 2 * 2048 * 1.05e9),
    "v5p": Chip("megacore", 95.73, 459e12, 2.765e12, 90e9, 3, 1.75e9, 2 * 4096 * 1.75e9),
    "v5e": Chip("default", 15.75, 197e12, 0.819e12, 45e9, 2, 1.5e9, 4096 * 1.5e9),
    "v6e": Chip("default", 31.25, 918e12, 1.638e12, 90e9, 2, 1.75e9, 4096 * 1.75e9),
}
