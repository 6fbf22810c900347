//! How keys are described: each once, as a field with its meaning, its default and its format. Reading, showing, the list
//! of known keys, the flags and the reference table all walk over these descriptions ([`Settings::visit`]).

use std::collections::BTreeMap;

use stint_protocol::{Class, ClassRules};
use toml::Value;

use super::formats::Misfit;

/// How values of one kind are written.
pub trait Format<T> {
    /// What the reference calls it.
    fn kind(&self) -> String;
    /// The value, from a file or as the text of a variable or a flag.
    fn read(&self, value: &Value) -> Result<T, Misfit>;
    /// The value as it reads back; none when there is nothing to write.
    fn show(&self, value: &T) -> Option<Value>;
}

/// What a description says beside field and format.
#[derive(Clone, Copy)]
pub struct About {
    /// What the value means.
    pub meaning: &'static str,
    /// The default in words, where it depends on the machine or on other keys.
    pub default: Option<&'static str>,
    /// A flag of `stint node` and what stands for its value: `--name NAME`.
    pub flag: Option<&'static str>,
    /// A second, shorter variable.
    pub short_variable: Option<&'static str>,
}

impl About {
    pub const NOTHING: About = About { meaning: "", default: None, flag: None, short_variable: None };
}

/// One key, with its value in a configuration.
pub struct Key<'a> {
    /// `section.name`
    pub name: String,
    pub about: About,
    pub slot: &'a mut dyn ConfigValue,
}

/// The value of a key together with its format.
pub trait ConfigValue {
    fn kind(&self) -> String;
    fn read(&mut self, value: &Value) -> Result<(), Misfit>;
    fn show(&self) -> Option<Value>;
}

struct KeySlot<'a, T, F> {
    value: &'a mut T,
    format: &'a F,
}

impl<T, F: Format<T>> ConfigValue for KeySlot<'_, T, F> {
    fn kind(&self) -> String {
        self.format.kind()
    }

    fn read(&mut self, value: &Value) -> Result<(), Misfit> {
        *self.value = self.format.read(value)?;
        Ok(())
    }

    fn show(&self) -> Option<Value> {
        self.format.show(self.value)
    }
}

/// Who looks at each key in turn.
pub type Visitor<'a> = dyn FnMut(Key<'_>) + 'a;

/// Values with descriptions.
pub trait Settings {
    /// Calls `each` with every key; `prefix` is the section's name and a dot.
    fn visit(&mut self, prefix: &str, each: &mut Visitor<'_>);
}

/// What stands behind the arrow of a description: a format (`Kind` = [`OneKey`]), or how the keys below it are named. The
/// compiler finds the kind, which keeps the two apart.
pub trait Place<T, Kind> {
    fn visit(&self, value: &mut T, prefix: &str, name: &str, about: About, each: &mut Visitor<'_>);
}

/// A field that is one key.
pub struct OneKey;
/// A field with keys below it, or none.
pub struct Keys;

impl<T, F: Format<T>> Place<T, OneKey> for F {
    fn visit(&self, value: &mut T, prefix: &str, name: &str, about: About, each: &mut Visitor<'_>) {
        let mut slot = KeySlot { value, format: self };
        each(Key { name: format!("{prefix}{name}"), about, slot: &mut slot });
    }
}

/// A section of its own: `[prefix.name]`.
pub struct Section;

impl<T: Settings> Place<T, Keys> for Section {
    fn visit(&self, value: &mut T, prefix: &str, name: &str, _: About, each: &mut Visitor<'_>) {
        value.visit(&format!("{prefix}{name}."), each);
    }
}

/// Keys of the section that they stand in.
pub struct Inline;

impl<T: Settings> Place<T, Keys> for Inline {
    fn visit(&self, value: &mut T, prefix: &str, _: &str, _: About, each: &mut Visitor<'_>) {
        value.visit(prefix, each);
    }
}

/// A section for each class.
pub struct Classes;

impl Place<BTreeMap<Class, ClassRules>, Keys> for Classes {
    fn visit(
        &self,
        value: &mut BTreeMap<Class, ClassRules>,
        prefix: &str,
        name: &str,
        _: About,
        each: &mut Visitor<'_>,
    ) {
        value.iter_mut().for_each(|(class, rules)| rules.visit(&format!("{prefix}{name}.{class}."), each));
    }
}

/// No key at all.
pub struct NoKey;

impl<T> Place<T, Keys> for NoKey {
    fn visit(&self, _: &mut T, _: &str, _: &str, _: About, _: &mut Visitor<'_>) {}
}

/// Describes keys. A row is
/// `/// meaning` `name: Type = default, "default in words" => format, key "name", flag "--name VALUE", variable "STINT_X";`
/// where the words, `key` (when it is not the field's name), `flag` and `variable` are left out where there are none. The
/// defaults see the machine under the name after `on`. `also` describes further keys of the same fields; `impl` describes
/// the keys of a struct that is defined elsewhere, as `/// meaning` `name, "default in words" => format, key "name";`.
macro_rules! settings {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident on $machine:ident {
            $(
                $(#[doc = $meaning:literal])*
                $visible:vis $field:ident : $type:ty = $default:expr $(, $about:literal)? => $format:expr
                    $(, key $key:literal)? $(, flag $flag:literal)? $(, variable $variable:literal)?;
            )*
        }
        $(also { $($further:tt)* })?
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[doc = $meaning])* $visible $field: $type, )*
        }

        impl $name {
            /// The defaults of a machine.
            pub(super) fn on($machine: &Machine) -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl Settings for $name {
            fn visit(&mut self, prefix: &str, each: &mut Visitor<'_>) {
                $(
                    let about = About {
                        meaning: concat!($($meaning),*),
                        $( default: Some($about), )?
                        $( flag: Some($flag), )?
                        $( short_variable: Some($variable), )?
                        ..About::NOTHING
                    };
                    let name = settings!(@name $field $($key)?);
                    Place::visit(&$format, &mut self.$field, prefix, name, about, each);
                )*
                $( settings!(@rows self prefix each $($further)*); )?
            }
        }
    };
    (impl $name:ident { $($rows:tt)* }) => {
        impl Settings for $name {
            fn visit(&mut self, prefix: &str, each: &mut Visitor<'_>) {
                settings!(@rows self prefix each $($rows)*);
            }
        }
    };
    (
        @rows $this:ident $prefix:ident $each:ident
        $( $(#[doc = $meaning:literal])* $($field:ident).+ $(, $about:literal)? => $format:expr $(, key $key:literal)?; )*
    ) => {
        $(
            let about = About {
                meaning: concat!($($meaning),*),
                $( default: Some($about), )?
                ..About::NOTHING
            };
            let name = settings!(@name $($field).+ $($key)?);
            Place::visit(&$format, &mut $this.$($field).+, $prefix, name, about, $each);
        )*
    };
    (@name $($field:ident).+ $key:literal) => { $key };
    (@name $first:ident . $($rest:ident).+) => { settings!(@name $($rest).+) };
    (@name $field:ident) => { stringify!($field) };
}
pub(super) use settings;
