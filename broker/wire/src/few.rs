//! A list that is mostly one long: a producer's request names one topic and one partition far more often than any other
//! number, and then needs no heap.

use std::ops::{Deref, DerefMut};

/// Zero, one or many values in order. One value lies inline.
#[derive(Clone)]
pub struct Few<T>(Inner<T>);

#[derive(Clone)]
enum Inner<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> Few<T> {
    pub const fn new() -> Few<T> {
        Few(Inner::Many(Vec::new()))
    }

    pub fn one(value: T) -> Few<T> {
        Few(Inner::One(value))
    }

    pub fn push(&mut self, value: T) {
        match std::mem::take(self).0 {
            Inner::Many(values) if values.is_empty() => *self = Few::one(value),
            Inner::Many(mut values) => {
                values.push(value);
                self.0 = Inner::Many(values);
            }
            Inner::One(first) => self.0 = Inner::Many(vec![first, value]),
        }
    }

    pub fn as_slice(&self) -> &[T] {
        match &self.0 {
            Inner::One(value) => std::slice::from_ref(value),
            Inner::Many(values) => values,
        }
    }

    /// Fills a list of `count` values; stops at the first error. The caller vouches for `count`.
    pub(crate) fn try_fill<E>(
        count: usize,
        mut next: impl FnMut() -> Result<T, E>,
    ) -> Result<Few<T>, E> {
        if count == 1 {
            return next().map(Few::one);
        }
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(next()?);
        }
        Ok(Few(Inner::Many(values)))
    }
}

impl<T> Default for Few<T> {
    fn default() -> Few<T> {
        Few::new()
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Inner::One(value) => std::slice::from_mut(value),
            Inner::Many(values) => values,
        }
    }
}

impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Few<T>) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<T: Eq> Eq for Few<T> {}

impl<T: std::fmt::Debug> std::fmt::Debug for Few<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_slice().fmt(f)
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut values: Vec<T>) -> Few<T> {
        match values.len() {
            1 => Few(values.pop().map_or_else(|| Inner::Many(Vec::new()), Inner::One)),
            _ => Few(Inner::Many(values)),
        }
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Few<T> {
        let mut values = values.into_iter();
        let Some(first) = values.next() else { return Few::new() };
        let Some(second) = values.next() else { return Few::one(first) };
        let mut many = Vec::with_capacity(2 + values.size_hint().0);
        many.push(first);
        many.push(second);
        many.extend(values);
        Few(Inner::Many(many))
    }
}

/// The values of a [`Few`], by value.
pub struct IntoIter<T>(Source<T>);

enum Source<T> {
    One(Option<T>),
    Many(std::vec::IntoIter<T>),
}

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match &mut self.0 {
            Source::One(value) => value.take(),
            Source::Many(values) => values.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            Source::One(value) => {
                (usize::from(value.is_some()), Some(usize::from(value.is_some())))
            }
            Source::Many(values) => values.size_hint(),
        }
    }
}

impl<T> ExactSizeIterator for IntoIter<T> {}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter(match self.0 {
            Inner::One(value) => Source::One(Some(value)),
            Inner::Many(values) => Source::Many(values.into_iter()),
        })
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> std::slice::Iter<'a, T> {
        self.as_slice().iter()
    }
}

impl<'a, T> IntoIterator for &'a mut Few<T> {
    type Item = &'a mut T;
    type IntoIter = std::slice::IterMut<'a, T>;

    fn into_iter(self) -> std::slice::IterMut<'a, T> {
        self.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_is_a_list_whatever_its_length() {
        for len in 0..5 {
            let values: Vec<usize> = (0..len).collect();
            let collected: Few<usize> = values.iter().copied().collect();
            let mut pushed = Few::new();
            values.iter().for_each(|&value| pushed.push(value));
            let mut next = 0..len;
            let filled = Few::try_fill(len, || next.next().ok_or(())).unwrap();
            for few in [Few::from(values.clone()), collected, pushed, filled] {
                assert_eq!(few.as_slice(), values);
                assert_eq!(few.clone().into_iter().len(), len);
                assert_eq!(few.into_iter().collect::<Vec<_>>(), values);
            }
        }
    }

    #[test]
    fn filling_stops_at_the_first_error() {
        let mut calls = 0;
        let result: Result<Few<u8>, u8> = Few::try_fill(3, || {
            calls += 1;
            if calls == 2 { Err(9) } else { Ok(calls) }
        });
        assert_eq!((result, calls), (Err(9), 2));
    }
}
