# Two commands: `make chat` and `make test`. Each does all of its own set-up, and is quick when there is none to do.

TAPER := target/release/taper

# What the user typed goes to the shell in the environment, never as text of a recipe: quotes, `$` and newlines in a
# prompt stay what they are. `value` keeps make from expanding it, `unexport` from doing so behind our back.
unexport PROMPT MODEL CHAT_PROMPT CHAT_MODEL
ifeq ($(origin PROMPT),command line)
export CHAT_PROMPT := $(value PROMPT)
endif
ifeq ($(origin MODEL),command line)
export CHAT_MODEL := $(value MODEL)
endif

.PHONY: help chat test bench bench-peers bench-kernels soak lint fmt release clean setup build

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1 \t/p' Makefile | expand -t 22

chat: setup build ## talk to the model; or PROMPT="one question", MODEL=name or path, ARGS="further flags"
	@exec $(TAPER) $${CHAT_MODEL:+"--model=$$CHAT_MODEL"} $${CHAT_PROMPT:+"--prompt=$$CHAT_PROMPT"} $(ARGS)

test: setup ## format, lints, all tests (of other processors in an emulator), documentation, the type-check for Apple machines
	@tests/tools/test.sh all

bench: setup build ## tokens a second of the default model; MODEL and ARGS as above
	@exec $(TAPER) $${CHAT_MODEL:+"--model=$$CHAT_MODEL"} --bench $(ARGS)

bench-peers: setup build ## the same beside llama.cpp and candle, in turn; builds llama.cpp once, outside the tree (needs cmake and g++)
	@benches/peers.py --model "$${CHAT_MODEL:-smollm2-135m}" $(ARGS)

bench-kernels: setup ## each kernel of the cpu backend alone: bytes a second, share of the memory's; ARGS=part-of-a-name
	@cargo bench --locked --bench kernels -- $(ARGS)

soak: setup ## the tests with ten times the rounds; takes long
	@TAPER_SOAK=1 tests/tools/test.sh tests

lint: setup ## format check and clippy
	@tests/tools/test.sh lint

fmt: ## format the sources
	@cargo fmt

release: setup ## the optimized binary with kernels for NVIDIA GPUs, and the libraries it needs
	@tests/tools/cuda_toolkit.sh
	@cargo build --release --locked
	@ls -l $(TAPER)
	@ldd $(TAPER)

clean: ## remove everything that was built; fetched models stay in the cache
	@cargo clean

setup:
	@tests/tools/setup.sh

# The first build shows what it is doing, later ones have little to show.
build: setup
	@cargo build --release --locked $(if $(wildcard $(TAPER)),--quiet)
