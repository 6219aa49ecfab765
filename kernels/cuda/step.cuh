// What a step and the one behind it agree on.
#pragma once

#include "common.cuh"

// Steps whose input and answer there are places for, so that the host can be so many behind; `STEPS` of step.rs.
constexpr uint32_t STEPS = 4;
// Of a step of few rows and its answer, where it is by itself: behind those that follow each other.
constexpr uint32_t ALONE = STEPS;

// Of a token that a step before this one chose, which the host does not know yet: its place among what the last steps chose, (STEPS + 1,
// stride), in the other bits.
constexpr uint32_t PREVIOUS = 1u << 31;
// No logit was a number.
constexpr uint32_t NO_TOKEN = ~0u;

// The id of a token as the host gives it.
DEVICE uint32_t id_of(uint32_t token, const uint32_t* chosen) {
    return token & PREVIOUS && token != NO_TOKEN ? fresh(chosen + (token & ~PREVIOUS)) : token;
}

constexpr int MOST_BANNED = 8;

// How a row's token is chosen: as draws.rs lays it out, in words, `at` having a boundary of its own size only by chance.
struct Drawn {
    uint32_t at[2];  // A double in [0, 1).
    float temperature;
    float top_p;
    float least;     // What a logit may be less than the largest, as a negative number.
    uint32_t top_k;  // 0 where the head's own choice stays.
    uint32_t pad[2];
    uint32_t banned[MOST_BANNED];  // Ids that may not come, and NO_TOKEN where there are no more.
};

// Which place a step's input and answer have; `ended` counts the steps that follow each other, null for a step by itself. So a recorded
// step finds its place whenever it is replayed.
DEVICE uint32_t place_of_step(const uint32_t* ended) { return ended ? fresh(ended) % STEPS : ALONE; }
