# puna: `make help` lists the targets.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
PYTHON ?= python3
CACHE = $(or $(PUNA_TEST_CACHE),$(HOME)/.cache/puna-test)
SMOL = $(CACHE)/SmolLM2-135M-Instruct.Q4_1.gguf
PUNA = target/release/puna
PATCHES = $(shell sed -n 's/^GGML_PUNA_PATCHES = "\(.*\)"/\1/p' .cargo/config.toml)

# The tests that need no long answers: rules, prompts, store, registries, usage, manuals, the API's cases.
QUICK = meta:: format:: store:: registry:: cli::remote cli::usage_errors cli::settings cli::manual api::conformance api::keys

.DEFAULT_GOAL := help
.PHONY: help deps test-deps build model models clients demo test quick test-sdk check bench shapes compare soak crowd chaos fuzz portable cuda metal vulkan rocm install clean

help: ## list the targets
	@sed -n 's/^\([a-z -]*\):.*## /  \1\t/p' Makefile | expand -t 28

deps: ## install what the build needs (apt), or name it
	@.ci/deps build

test-deps: ## install what the tests need (apt), or name it
	@.ci/deps build test

build: deps ## build target/release/puna for this machine
	@# CMake keeps its configuration: other patches need a folder without one.
	@test "$$(cat target/patches 2>/dev/null)" = "$(PATCHES)" || test ! -d target/release/build || \
		$(CARGO) clean --release -p llama-cpp-sys-2
	$(CARGO) build --release
	@echo "$(PATCHES)" > target/patches

model: ## fetch the small model (98 MB) and check it
	@PYTHON=$(PYTHON) .ci/models smol

models: ## fetch the models of the tests and benches and check them
	@PYTHON=$(PYTHON) .ci/models smol gemma minilm

clients: ## fetch the official clients that the tests drive
	@PYTHON=$(PYTHON) .ci/clients

demo: build model ## build, fetch the small model, answer a piped prompt
	@echo
	@echo "\$$ echo 'Why is the sky blue?' | puna run $(notdir $(SMOL)) -n 80"
	@echo 'Why is the sky blue?' | $(PUNA) run $(SMOL) -n 80 --temperature 0

test: test-deps models clients build ## run all tests
	$(CARGO) test --release -- --skip timing:: --skip from_npm::
	$(CARGO) test --release --test puna timing:: -- --test-threads=1

quick: test-deps models build ## run a minute of the tests
	$(CARGO) test --release --lib
	$(CARGO) test --release --test puna -- $(QUICK)

test-sdk: build models ## run coding agents, and the suites of OpenAI's, Anthropic's and TypeSafe's SDKs, against a server
	$(CARGO) test --release --test puna -- minilm:: embed::
	@$(PYTHON) .ci/sdk
	@CARGO="$(CARGO)" .ci/agents

check: ## everything that CI checks
	.ci/run

bench: build models ## measure speed and memory (prints, never fails by time)
	benches/run
	$(CARGO) bench --bench text

shapes: build ## write models of 1 and 8 billion random weights (5.7 GB)
	@mkdir -p $(CACHE)
	@for shape in llama-1b llama-8b; do \
		test -e $(CACHE)/$$shape.Q4_K_M.gguf || \
			$(CARGO) bench --bench shapes -- $$shape Q4_K_M $(CACHE)/$$shape.Q4_K_M.gguf || exit 1; \
	done

compare: build models shapes ## measure the server against llama.cpp's own (PEER=xllamacpp where there is no AVX-512)
	@PYTHON=$(PYTHON) .ci/peers $(or $(PEER),llama-server)
	benches/compare $(if $(filter xllamacpp,$(PEER)),--peer benches/xserver --name xllamacpp)
	benches/size --models llama-1b.Q4_K_M,llama-8b.Q4_K_M $(if $(filter xllamacpp,$(PEER)),--peer benches/xserver --name xllamacpp)

soak: build models ## ten thousand mixed requests to one server (prints, never fails by time)
	benches/soak

crowd: build model ## two hundred clients of one server for ten minutes (prints, never fails by time)
	benches/crowd

chaos: build models ## attack one server in every way for ten minutes; two honest clients measure (fails if one is answered wrong)
	$(CARGO) bench --bench fuzz -- write $(CURDIR)/target/hostile 60
	benches/chaos target/hostile $(or $(SECONDS),600)

fuzz: build ## feed mutated templates, answers and grammars to what reads them (SECONDS= each)
	$(CARGO) bench --bench fuzz -- $(or $(SECONDS),60)

portable: deps ## build for packages: every CPU, shared libraries beside the binary
	RUSTFLAGS='-C link-arg=-Wl,-rpath,$$ORIGIN' $(CARGO) build --release --features portable
	cp -fP target/release/build/llama-cpp-sys-2-*/out/lib/*.so* target/release/
	cp -f target/release/build/llama-cpp-sys-2-*/out/backends/*.so target/release/

cuda metal vulkan rocm: deps ## build with a GPU backend (needs its SDK)
	$(CARGO) build --release --features $@

install: ## copy the built binary, manuals and completions to PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 \
		$(DESTDIR)$(PREFIX)/share/man/man5 $(DESTDIR)$(PREFIX)/share/man/man7 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	install -m 755 $(PUNA) $(DESTDIR)$(PREFIX)/bin/puna
	for library in target/release/lib*.so*; do \
		test ! -e "$$library" || cp -P "$$library" $(DESTDIR)$(PREFIX)/bin/; done
	install -m 644 man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 644 man/*.5 $(DESTDIR)$(PREFIX)/share/man/man5/
	install -m 644 man/*.7 $(DESTDIR)$(PREFIX)/share/man/man7/
	install -m 644 completions/puna.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/puna
	install -m 644 completions/_puna $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_puna
	install -m 644 completions/puna.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/puna.fish

clean: ## remove what was built
	$(CARGO) clean
