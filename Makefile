# Two commands matter: `make up` and `make test`. Each does all its own set-up.

.PHONY: help up chat test check bench fmt
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

up: ## build and run an Engine on 127.0.0.1; prints how to talk to it; needs no key of anyone
	@exec sh scripts/up.sh

chat: ## talk to the Engine that `make up` started; TASK=name goes on with a conversation
	@ENGINE_API_KEY=$${ENGINE_API_KEY:-$$(cat .september/engine.key 2>/dev/null)} \
		exec target/release/september-engine chat --url "$$(cat .september/engine.url)" $(if $(TASK),--task "$(TASK)")

test: ## everything this machine can test; what it cannot is listed at the end
	@exec bash scripts/test.sh

check: ## the quick half of `make test`: format, clippy, unit and integration tests
	@exec bash scripts/test.sh format clippy tests

bench: ## measure start, memory, first byte and streaming of the release program (some minutes)
	@exec cargo bench --workspace --bench engine

fmt: ## format the code
	@cargo fmt --all
