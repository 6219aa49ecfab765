// Single logits that are changed before a token is drawn: src/sample's biases and penalties, in the same order and with the same roundings.
#pragma once

#include "step.cuh"

// Of a row, at most: the same of changes.rs. A thread has one of each.
constexpr int MOST_RECENT = 256, MOST_BIASES = 64;
static_assert(MOST_RECENT <= THREADS && MOST_BIASES <= THREADS, "each has a thread");

// How a row's logits are changed: as changes.rs lays it out, in words.
struct Changes {
    float repeat;     // Divides positive logits of tokens that came lately, and multiplies the others.
    float frequency;  // Subtracted for each time that one came.
    float presence;   // Subtracted once.
    uint32_t recents;
    uint32_t biased;
    uint32_t pad[3];
    uint32_t recent[MOST_RECENT];  // What came lately; see id_of.
    uint32_t ids[MOST_BIASES];
    float biases[MOST_BIASES];     // Added to the logits of those ids.
};

// How often the id of place t is among `count` ids from there on; 0 where it is in front of it too.
DEVICE uint32_t count_from(uint32_t t, const uint32_t* ids, uint32_t count) {
    uint32_t times = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (ids[i] != ids[t]) continue;
        if (i < t) return 0;
        times++;
    }
    return times;
}

// Changes a row's logits from `first` to `end`, by a block, which sees them changed behind it. An id's first thread does all of its changes.
DEVICE void change_logits(const Changes* c, const uint32_t* chosen, uint32_t first, uint32_t end, float* logits) {
    __shared__ uint32_t recent[MOST_RECENT], ids[MOST_BIASES];
    uint32_t t = threadIdx.x, recents = fresh(&c->recents), biased = fresh(&c->biased);
    if (t < recents) recent[t] = id_of(fresh(c->recent + t), chosen);
    if (t < biased) ids[t] = fresh(c->ids + t);
    __syncthreads();
    auto is_here = [&](uint32_t id) { return first <= id && id < end; };
    if (t < biased && is_here(ids[t]) && count_from(t, ids, biased) > 0) {
        float logit = fresh(logits + ids[t]);
        for (uint32_t i = t; i < biased; i++)
            if (ids[i] == ids[t]) logit += fresh(c->biases + i);
        logits[ids[t]] = logit;
    }
    __syncthreads();
    if (t < recents && is_here(recent[t])) {
        uint32_t count = count_from(t, recent, recents);
        if (count > 0) {
            float logit = fresh(logits + recent[t]), repeat = fresh(&c->repeat);
            logit = logit > 0.0f ? logit / repeat : logit * repeat;
            logits[recent[t]] = logit - (float(count) * fresh(&c->frequency) + fresh(&c->presence));
        }
    }
    __syncthreads();
}
