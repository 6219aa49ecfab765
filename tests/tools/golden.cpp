// Prints what libllama makes of a model's text, for the golden files in tests/data/.
//
//   golden tokens MODEL ADD_SPECIAL PARSE_SPECIAL    vocabulary only
//   golden greedy MODEL N                            N greedy tokens, f32 KV, no flash attention
//   golden pieces MODEL                              the vocabulary's control and unknown tokens
//
// Each line of standard input is one text, in hexadecimal; each line of output is one JSON value.

#include "llama.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

static void fail(const char * what) {
    fprintf(stderr, "golden: %s\n", what);
    exit(1);
}

static std::string unhex(const std::string & line) {
    std::string bytes;
    for (size_t i = 0; i + 1 < line.size(); i += 2) {
        bytes += (char) std::stoi(line.substr(i, 2), nullptr, 16);
    }
    return bytes;
}

static std::string hex(const std::string & bytes) {
    std::string out;
    char two[3];
    for (unsigned char byte : bytes) {
        snprintf(two, sizeof two, "%02x", byte);
        out += two;
    }
    return out;
}

static std::vector<llama_token> tokenize(const llama_vocab * vocab, const std::string & text, bool add, bool parse) {
    std::vector<llama_token> ids(text.size() + 8);
    const int n = llama_tokenize(vocab, text.data(), text.size(), ids.data(), ids.size(), add, parse);
    if (n < 0) fail("token buffer too small");
    ids.resize(n);
    return ids;
}

static std::string piece(const llama_vocab * vocab, llama_token id, bool special) {
    char buffer[512];
    const int n = llama_token_to_piece(vocab, id, buffer, sizeof buffer, 0, special);
    if (n < 0) fail("piece buffer too small");
    return std::string(buffer, n);
}

template <typename T> static void print_list(const std::vector<T> & list, const char * format) {
    printf("[");
    for (size_t i = 0; i < list.size(); i++) {
        if (i) printf(", ");
        printf(format, list[i]);
    }
    printf("]");
}

static void greedy(llama_model * model, const std::string & prompt, int count) {
    const llama_vocab * vocab = llama_model_get_vocab(model);
    auto prompt_ids = tokenize(vocab, prompt, true, true);

    auto params = llama_context_default_params();
    params.n_ctx = prompt_ids.size() + count;
    params.n_batch = params.n_ctx;
    params.n_threads = params.n_threads_batch = 2;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) fail("no context");

    std::vector<llama_token> ids;
    std::vector<double> gaps;
    std::string text;
    bool ended = false;
    auto batch = llama_batch_get_one(prompt_ids.data(), prompt_ids.size());
    while (true) {
        if (llama_decode(context, batch) != 0) fail("decode");
        const float * logits = llama_get_logits_ith(context, -1);
        llama_token best = 0;
        float first = -INFINITY, second = -INFINITY;
        for (llama_token id = 0; id < llama_vocab_n_tokens(vocab); id++) {
            if (logits[id] > first) {
                second = first;
                first = logits[id];
                best = id;
            } else if (logits[id] > second) {
                second = logits[id];
            }
        }
        ids.push_back(best);
        gaps.push_back(first - second);
        ended = llama_vocab_is_eog(vocab, best);
        text += piece(vocab, best, false); // a control token has no text
        if (ended || (int) ids.size() == count) break;
        batch = llama_batch_get_one(&ids.back(), 1);
    }
    printf("{\"prompt_ids\": ");
    print_list(prompt_ids, "%d");
    printf(", \"ids\": ");
    print_list(ids, "%d");
    printf(", \"gaps\": ");
    print_list(gaps, "%.4f");
    printf(", \"ended\": %s, \"hex\": \"%s\"}\n", ended ? "true" : "false", hex(text).c_str());
    llama_free(context);
}

int main(int argc, char ** argv) {
    if (argc < 3) fail("usage: golden tokens|greedy|pieces MODEL ...");
    const std::string command = argv[1];
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    auto params = llama_model_default_params();
    params.vocab_only = command != "greedy";
    llama_model * model = llama_model_load_from_file(argv[2], params);
    if (!model) fail("cannot load the model");
    const llama_vocab * vocab = llama_model_get_vocab(model);

    if (command == "pieces") {
        for (llama_token id = 0; id < llama_vocab_n_tokens(vocab); id++) {
            const auto attr = llama_vocab_get_attr(vocab, id);
            if (attr & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN | LLAMA_TOKEN_ATTR_USER_DEFINED)) {
                printf("[%d, %d, %d, \"%s\"]\n", id, attr, llama_vocab_is_eog(vocab, id), llama_vocab_get_text(vocab, id));
            }
        }
        fprintf(stderr, "add_bos %d, add_eos %d\n", llama_vocab_get_add_bos(vocab), llama_vocab_get_add_eos(vocab));
        return 0;
    }
    if (argc < (command == "tokens" ? 5 : 4)) fail("too few arguments");
    for (std::string line; std::getline(std::cin, line);) {
        const std::string text = unhex(line);
        if (command == "tokens") {
            print_list(tokenize(vocab, text, atoi(argv[3]), atoi(argv[4])), "%d");
            printf("\n");
        } else {
            greedy(model, text, atoi(argv[3]));
        }
    }
}
