//! Element types of tensors, numbered as TensorFlow's `DataType`.

use std::fmt;

macro_rules! dtypes {
    ($($variant:ident = $number:literal, $name:literal, $proto:literal, $size:expr;)*) => {
        /// An element type of a tensor.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        pub enum DataType { $($variant = $number,)* }

        impl DataType {
            pub const ALL: &'static [DataType] = &[$(DataType::$variant,)*];

            /// The type with TensorFlow's number, if this server knows it.
            pub fn from_number(number: i32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// TensorFlow's short name, such as `float`: what error messages say.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// TensorFlow's enum name, such as `DT_FLOAT`.
            pub fn proto_name(self) -> &'static str {
                match self { $(Self::$variant => $proto,)* }
            }

            /// Bytes per element; `None` for strings, and for what only lives inside a graph (resources, variants).
            pub fn size(self) -> Option<usize> {
                match self { $(Self::$variant => $size,)* }
            }
        }
    };
}

dtypes! {
    Float = 1, "float", "DT_FLOAT", Some(4);
    Double = 2, "double", "DT_DOUBLE", Some(8);
    Int32 = 3, "int32", "DT_INT32", Some(4);
    Uint8 = 4, "uint8", "DT_UINT8", Some(1);
    Int16 = 5, "int16", "DT_INT16", Some(2);
    Int8 = 6, "int8", "DT_INT8", Some(1);
    String = 7, "string", "DT_STRING", None;
    Complex64 = 8, "complex64", "DT_COMPLEX64", Some(8);
    Int64 = 9, "int64", "DT_INT64", Some(8);
    Bool = 10, "bool", "DT_BOOL", Some(1);
    Qint8 = 11, "qint8", "DT_QINT8", Some(1);
    Quint8 = 12, "quint8", "DT_QUINT8", Some(1);
    Qint32 = 13, "qint32", "DT_QINT32", Some(4);
    Bfloat16 = 14, "bfloat16", "DT_BFLOAT16", Some(2);
    Qint16 = 15, "qint16", "DT_QINT16", Some(2);
    Quint16 = 16, "quint16", "DT_QUINT16", Some(2);
    Uint16 = 17, "uint16", "DT_UINT16", Some(2);
    Complex128 = 18, "complex128", "DT_COMPLEX128", Some(16);
    Half = 19, "half", "DT_HALF", Some(2);
    Resource = 20, "resource", "DT_RESOURCE", None;
    Variant = 21, "variant", "DT_VARIANT", None;
    Uint32 = 22, "uint32", "DT_UINT32", Some(4);
    Uint64 = 23, "uint64", "DT_UINT64", Some(8);
    Float8E5m2 = 24, "float8_e5m2", "DT_FLOAT8_E5M2", Some(1);
    Float8E4m3fn = 25, "float8_e4m3fn", "DT_FLOAT8_E4M3FN", Some(1);
    Int4 = 29, "int4", "DT_INT4", Some(1);
    Uint4 = 30, "uint4", "DT_UINT4", Some(1);
}

impl fmt::Display for DataType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_type() {
        for dtype in DataType::ALL {
            assert_eq!(DataType::from_number(*dtype as i32), Some(*dtype));
            assert_eq!(dtype.proto_name(), format!("DT_{}", dtype.name().to_uppercase()));
        }
        assert_eq!(DataType::from_number(0), None);
        assert_eq!(DataType::from_number(101), None, "reference types do not travel");
    }
}
