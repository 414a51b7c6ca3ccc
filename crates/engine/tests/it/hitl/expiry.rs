//! Nobody answers: tested on the library, because the shortest configurable life of a question is a minute.
