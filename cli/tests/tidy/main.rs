//! What holds of every file of this repository, whatever it does: its pages and comments lead somewhere, its files and
//! functions fit on a screen or two, and its names are the agreed ones. Needs no cluster.

mod names;
mod pages;
mod sizes;
mod source;
