//! The stream decoder: chunks of a chat completion in, pieces out, whatever habits the server has.
//!
//! It guesses nothing about a call before its name is there, and keeps back what belongs to a later call while an
//! earlier one is open. The invariant: one block is open at a time, and every block that was opened is ended.

use crate::assemble::Blocks;
use crate::names::NameMap;
use crate::provider::{CallError, Piece, Stop};
use crate::sse::Event;
use crate::tokens::estimate_usage;
use crate::wire::{Decode, DecodeError, cut_short, read_frame};
use contract::Usage;
use serde_json::{Map, Value, json};

#[derive(Debug)]
struct ToolCall {
    index: Option<u64>,
    id: String,
    name: String,
    /// What came before the call's block could be opened.
    waiting_args: String,
    state: CallState,
}

#[derive(Debug, PartialEq)]
enum CallState {
    Waiting,
    Open,
    Closed,
}

/// The stream decoder.
#[derive(Debug)]
pub struct Decoder {
    names: NameMap,
    blocks: Blocks,
    calls: Vec<ToolCall>,
    stop: Option<Stop>,
    usage: Option<Usage>,
    done: bool,
    input_estimate: u64,
}

impl Decoder {
    /// At the start of a stream. `input_estimate` stands in for missing usage; the answer may bring `most` bytes.
    pub fn new(names: NameMap, input_estimate: u64, most: usize) -> Self {
        Self {
            names,
            blocks: Blocks::up_to(most),
            calls: Vec::new(),
            stop: None,
            usage: None,
            done: false,
            input_estimate,
        }
    }

    fn delta(&mut self, delta: &Value) -> Result<(), CallError> {
        for field in ["reasoning_content", "reasoning"] {
            if let Some(text) = delta[field].as_str().filter(|t| !t.is_empty()) {
                self.close_calls()?;
                self.blocks.thinking(text)?;
                self.blocks.sign(json!({"provider": "openai", "field": field}));
                break;
            }
        }
        let texts = match &delta["content"] {
            Value::String(text) => vec![text.as_str()],
            Value::Array(parts) => parts.iter().filter_map(|p| p["text"].as_str()).collect(),
            _ => Vec::new(),
        };
        for text in texts.into_iter().chain(delta["refusal"].as_str()).filter(|t| !t.is_empty()) {
            self.close_calls()?;
            self.blocks.text(text)?;
        }
        if delta["refusal"].as_str().is_some_and(|t| !t.is_empty()) {
            self.stop = Some(Stop::Refusal);
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            self.call_delta(call)?;
        }
        Ok(())
    }

    fn call_delta(&mut self, delta: &Value) -> Result<(), CallError> {
        let index = delta["index"].as_u64();
        let id = delta["id"].as_str().unwrap_or_default();
        let name = delta["function"]["name"].as_str().unwrap_or_default();
        let args = match &delta["function"]["arguments"] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            whole => whole.to_string(), // some servers send an object
        };
        let known = match index {
            Some(_) => self.calls.iter().rposition(|c| c.index == index),
            None if !id.is_empty() => self.calls.iter().rposition(|c| c.id == id),
            None => self.calls.len().checked_sub(1),
        };
        // Servers that number every call 0 are told apart by a new id that comes with a name.
        let another = |c: &ToolCall| !id.is_empty() && !c.id.is_empty() && c.id != id && !name.is_empty();
        let at = match known {
            Some(at) if !another(&self.calls[at]) => at,
            _ => {
                self.settle();
                self.calls.push(ToolCall {
                    index,
                    id: id.to_owned(),
                    name: String::new(),
                    waiting_args: String::new(),
                    state: CallState::Waiting,
                });
                self.calls.len() - 1
            }
        };
        if self.calls[at].name.is_empty() {
            name.clone_into(&mut self.calls[at].name);
        }
        match self.calls[at].state {
            CallState::Open => self.blocks.args(&args),
            CallState::Closed => Ok(()),
            CallState::Waiting => {
                self.calls[at].waiting_args.push_str(&args);
                if self.calls.iter().any(|c| c.state == CallState::Open) || self.calls[at].name.is_empty() {
                    return Ok(());
                }
                self.open_call(at)
            }
        }
    }

    /// Closes the open call when its arguments are whole. A server that mixes the arguments of parallel
    /// calls leaves it open; then the later ones wait.
    fn settle(&mut self) {
        let whole =
            self.blocks.open_args().is_some_and(|a| serde_json::from_str::<Map<String, Value>>(a).is_ok());
        if whole && let Some(call) = self.calls.iter_mut().find(|c| c.state == CallState::Open) {
            call.state = CallState::Closed;
            self.blocks.end();
        }
    }

    fn open_call(&mut self, at: usize) -> Result<(), CallError> {
        let call = &mut self.calls[at];
        call.state = CallState::Open;
        let args = std::mem::take(&mut call.waiting_args);
        let name = self.names.engine(&call.name);
        self.blocks.start_tool(name);
        self.blocks.args(&args)
    }

    fn close_calls(&mut self) -> Result<(), CallError> {
        for at in 0..self.calls.len() {
            if self.calls[at].state == CallState::Waiting {
                self.open_call(at)?;
            }
            if self.calls[at].state == CallState::Open {
                self.calls[at].state = CallState::Closed;
                self.blocks.end();
            }
        }
        Ok(())
    }
}

impl Decode for Decoder {
    fn push(&mut self, event: &Event) -> Result<Vec<Piece>, DecodeError> {
        if event.data.trim() == "[DONE]" {
            self.done = true;
            return Ok(Vec::new());
        }
        let frame = read_frame(event)?;
        if !frame["error"].is_null() || frame["object"] == "error" {
            return Err(DecodeError::Refused(frame));
        }
        let choice = &frame["choices"][0];
        self.delta(&choice["delta"])?;
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.close_calls()?;
            self.blocks.end();
            let stop = match reason {
                "length" => Stop::MaxTokens,
                "content_filter" => Stop::Refusal,
                _ if self.blocks.tool_count() > 0 => Stop::ToolUse,
                _ => Stop::EndTurn,
            };
            self.stop = Some(self.stop.filter(|s| *s == Stop::Refusal).unwrap_or(stop));
        }
        if let Some(count) = frame["usage"]["prompt_tokens"].as_u64() {
            let usage = &frame["usage"];
            self.usage = Some(Usage {
                input_tokens: count,
                output_tokens: usage["completion_tokens"].as_u64().unwrap_or(0),
                cache_hit_tokens: usage["prompt_tokens_details"]["cached_tokens"]
                    .as_u64()
                    .unwrap_or(0)
                    .min(count),
            });
        }
        Ok(self.blocks.take())
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn finish(&mut self) -> Result<Vec<Piece>, DecodeError> {
        let stop = match self.stop {
            Some(stop) => stop,
            // Some servers send [DONE] without a finish_reason.
            None if self.done && self.blocks.any() => {
                self.close_calls()?;
                if self.blocks.tool_count() > 0 { Stop::ToolUse } else { Stop::EndTurn }
            }
            None => return Err(cut_short().into()),
        };
        self.blocks.end();
        let usage = self.usage.unwrap_or_else(|| estimate_usage(self.input_estimate, self.blocks.bytes()));
        self.blocks.push(Piece::Usage { usage, estimated: self.usage.is_none() });
        self.blocks.push(Piece::Stop(stop));
        Ok(self.blocks.take())
    }
}
