// What a step and the one behind it agree on.
#pragma once

#include "common.cuh"

// Steps whose input and answer there are places for, so that the host can be so many behind; `STEPS` of step.rs.
constexpr uint32_t STEPS = 4;
// Of a step of few rows and its answer, where it is by itself: behind those that follow each other.
constexpr uint32_t ALONE = STEPS;

// Of a row that is to go on from what the step before chose: the row there, in the other bits.
constexpr uint32_t PREVIOUS = 1u << 31;
// No logit was a number.
constexpr uint32_t NO_TOKEN = ~0u;

// Which place a step's input and answer have; `ended` counts the steps that follow each other, null for a step by itself. So a recorded
// step finds its place whenever it is replayed.
DEVICE uint32_t place_of_step(const uint32_t* ended) { return ended ? fresh(ended) % STEPS : ALONE; }
