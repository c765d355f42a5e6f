"""Campaigns against kerastune: many seeded inputs of a kind, each of which must work or be refused in words."""

from attack import bits, data, hostile, kills, recipes, requests, runs, workers
from attack.campaign import Campaign

CAMPAIGNS: dict[str, Campaign] = {
    one.CAMPAIGN.name: one.CAMPAIGN for one in (recipes, data, requests, bits, hostile, kills, runs, workers)
}
