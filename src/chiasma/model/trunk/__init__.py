"""The trunk between fusion and head: a population of members."""

from chiasma.model.trunk.population import Place, Population, PopulationSpec, Trunk, Trunked

TrunkSpec = PopulationSpec

__all__ = ["Place", "Population", "PopulationSpec", "Trunk", "TrunkSpec", "Trunked"]
