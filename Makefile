# Two commands matter: `make up` and `make test`. Each does all its own set-up.

.PHONY: help up engine chat test check bench fmt
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

up: ## build and run the whole fleet on 127.0.0.1: orchestrator, PostgreSQL, engines; needs no key of anyone
	@exec sh scripts/up.sh

engine: ## build and run one Engine alone on 127.0.0.1, without orchestrator and database
	@exec sh scripts/engine.sh

chat: ## talk to the demo user's engine of `make up`, or to that of `make engine`; TASK=name goes on with a conversation, ENGINE=fleet or alone says which
	@ENGINE='$(ENGINE)' exec sh scripts/chat.sh $(if $(TASK),--task "$(TASK)")

test: ## everything this machine can test; what it cannot is listed at the end
	@exec bash scripts/test.sh

check: ## the quick half of `make test`: format, clippy, unit and integration tests
	@exec bash scripts/test.sh format clippy tests

bench: ## measure start, memory, first byte and streaming of the release program (some minutes)
	@exec cargo bench -p testbed --bench engine --bench fleet --bench memory

fmt: ## format the code
	@cargo fmt --all
