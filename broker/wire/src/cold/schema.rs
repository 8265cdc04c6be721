//! The shape of every cold request, as data, and a walk over a body that refuses what the codec behind `cold` must not
//! see. That codec reserves memory by the counts on the wire; seven bytes can ask it for 300 GB. Here each length is
//! compared with the bytes left, and what the counts together would cost is kept within a budget, before it runs.
//!
//! Responses need no shape: they are ours. Produce and Fetch decode by themselves.

use crate::ApiKey;
use crate::primitive::{DecodeError, Element, Reader};

/// One field of a struct and the versions that have it.
pub(super) struct Field {
    from: i16,
    to: i16,
    pub(super) kind: Kind,
}

/// What a field holds. Null is allowed everywhere: it costs nothing, and the codec knows where it is wrong.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Bool,
    /// Integers and ids, by their bytes.
    Fixed(usize),
    String,
    Bytes,
    Array(&'static Kind),
    Struct(&'static [Field]),
    /// A value that is lifted to a new shape after decoding, which costs as many bytes once more.
    Lifted(&'static Kind, usize),
}

use Kind::{Array, Bool, Bytes, Lifted, String, Struct};

const I8: Kind = Kind::Fixed(1);
const I16: Kind = Kind::Fixed(2);
const I32: Kind = Kind::Fixed(4);
const I64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);

const fn all(kind: Kind) -> Field {
    Field { from: 0, to: i16::MAX, kind }
}

const fn since(from: i16, kind: Kind) -> Field {
    Field { from, to: i16::MAX, kind }
}

const fn until(to: i16, kind: Kind) -> Field {
    Field { from: 0, to, kind }
}

const fn between(from: i16, to: i16, kind: Kind) -> Field {
    Field { from, to, kind }
}

/// The body of a request; none for the APIs that `cold` does not decode.
pub(super) const fn request(api: ApiKey) -> Option<&'static [Field]> {
    Some(match api {
        ApiKey::Produce | ApiKey::Fetch => return None,
        ApiKey::ListOffsets => LIST_OFFSETS,
        ApiKey::Metadata => METADATA,
        ApiKey::OffsetCommit => OFFSET_COMMIT,
        ApiKey::OffsetFetch => OFFSET_FETCH,
        ApiKey::FindCoordinator => FIND_COORDINATOR,
        ApiKey::JoinGroup => JOIN_GROUP,
        ApiKey::Heartbeat => HEARTBEAT,
        ApiKey::LeaveGroup => LEAVE_GROUP,
        ApiKey::SyncGroup => SYNC_GROUP,
        ApiKey::DescribeGroups => DESCRIBE_GROUPS,
        ApiKey::ListGroups => LIST_GROUPS,
        ApiKey::ApiVersions => API_VERSIONS,
        ApiKey::CreateTopics => CREATE_TOPICS,
        ApiKey::DeleteTopics => DELETE_TOPICS,
        ApiKey::DeleteRecords => DELETE_RECORDS,
        ApiKey::InitProducerId => INIT_PRODUCER_ID,
        ApiKey::OffsetForLeaderEpoch => OFFSET_FOR_LEADER_EPOCH,
        ApiKey::DescribeAcls => DESCRIBE_ACLS,
        ApiKey::DescribeConfigs => DESCRIBE_CONFIGS,
        ApiKey::AlterConfigs => ALTER_CONFIGS,
        ApiKey::DescribeLogDirs => DESCRIBE_LOG_DIRS,
        ApiKey::CreatePartitions => CREATE_PARTITIONS,
        ApiKey::DeleteGroups => DELETE_GROUPS,
        ApiKey::IncrementalAlterConfigs => INCREMENTAL_ALTER_CONFIGS,
        ApiKey::OffsetDelete => OFFSET_DELETE,
        ApiKey::DescribeCluster => DESCRIBE_CLUSTER,
    })
}

const LIST_OFFSETS: &[Field] = &[
    all(I32),     // replica id
    since(2, I8), // isolation level
    all(Array(&Struct(&[
        all(String), // topic
        all(Array(&Struct(&[
            all(I32),      // partition
            since(4, I32), // leader epoch
            all(I64),      // timestamp
        ]))),
    ]))),
    since(10, I32), // timeout
];

const METADATA: &[Field] = &[
    all(Array(&Struct(&[
        since(10, UUID),
        all(String), // topic
    ]))),
    since(4, Bool),       // allow auto creation
    between(8, 10, Bool), // include cluster operations
    since(8, Bool),       // include topic operations
];

const OFFSET_COMMIT: &[Field] = &[
    all(String),        // group
    since(1, I32),      // generation
    since(1, String),   // member
    since(7, String),   // group instance
    between(2, 4, I64), // retention
    all(Array(&Struct(&[
        until(9, String), // topic
        since(10, UUID),
        all(Array(&Struct(&[
            all(I32),      // partition
            all(I64),      // offset
            since(6, I32), // leader epoch
            all(String),   // metadata
        ]))),
    ]))),
];

const OFFSET_FETCH: &[Field] = &[
    until(7, String), // group
    until(7, Array(&Lifted(&NAME_AND_PARTITIONS, 96))),
    since(
        8,
        Array(&Struct(&[
            all(String),      // group
            since(9, String), // member
            since(9, I32),    // member epoch
            all(Array(&Struct(&[
                until(9, String), // topic
                since(10, UUID),
                all(Array(&I32)), // partitions
            ]))),
        ])),
    ),
    since(7, Bool), // require stable
];

const NAME_AND_PARTITIONS: Kind = Struct(&[
    all(String),      // topic
    all(Array(&I32)), // partitions
]);

const FIND_COORDINATOR: &[Field] = &[
    until(3, String),         // key
    since(1, I8),             // key type
    since(4, Array(&String)), // keys
];

const JOIN_GROUP: &[Field] = &[
    all(String),      // group
    all(I32),         // session timeout
    since(1, I32),    // rebalance timeout
    all(String),      // member
    since(5, String), // group instance
    all(String),      // protocol type
    all(Array(&Struct(&[
        all(String), // protocol
        all(Bytes),  // metadata
    ]))),
    since(8, String), // reason
];

const HEARTBEAT: &[Field] = &[
    all(String),      // group
    all(I32),         // generation
    all(String),      // member
    since(3, String), // group instance
];

const LEAVE_GROUP: &[Field] = &[
    all(String),      // group
    until(2, String), // member
    since(
        3,
        Array(&Struct(&[
            all(String),      // member
            all(String),      // group instance
            since(5, String), // reason
        ])),
    ),
];

const SYNC_GROUP: &[Field] = &[
    all(String),      // group
    all(I32),         // generation
    all(String),      // member
    since(3, String), // group instance
    since(5, String), // protocol type
    since(5, String), // protocol
    all(Array(&Struct(&[
        all(String), // member
        all(Bytes),  // assignment
    ]))),
];

const DESCRIBE_GROUPS: &[Field] = &[
    all(Array(&String)), // groups
    since(3, Bool),      // include operations
];

const LIST_GROUPS: &[Field] = &[
    since(4, Array(&String)), // states
    since(5, Array(&String)), // types
];

const API_VERSIONS: &[Field] = &[
    since(3, String), // client software
    since(3, String), // its version
];

const CREATE_TOPICS: &[Field] = &[
    all(Array(&Struct(&[
        all(String), // topic
        all(I32),    // partitions
        all(I16),    // replication factor
        all(Array(&Struct(&[
            all(I32),         // partition
            all(Array(&I32)), // brokers
        ]))),
        all(CONFIGS),
    ]))),
    all(I32),       // timeout
    since(1, Bool), // validate only
];

/// Names and values.
const CONFIGS: Kind = Array(&Struct(&[
    all(String), // name
    all(String), // value
]));

const DELETE_TOPICS: &[Field] = &[
    since(
        6,
        Array(&Struct(&[
            all(String), // topic
            all(UUID),
        ])),
    ),
    until(5, Array(&Lifted(&String, 72))), // topics
    all(I32),                              // timeout
];

const DELETE_RECORDS: &[Field] = &[
    all(Array(&Struct(&[
        all(String), // topic
        all(Array(&Struct(&[
            all(I32), // partition
            all(I64), // offset
        ]))),
    ]))),
    all(I32), // timeout
];

const INIT_PRODUCER_ID: &[Field] = &[
    all(String),    // transactional id
    all(I32),       // timeout
    since(3, I64),  // producer id
    since(3, I16),  // producer epoch
    since(6, Bool), // two-phase commit
    since(6, Bool), // keep prepared
];

const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    since(3, I32), // replica id
    all(Array(&Struct(&[
        all(String), // topic
        all(Array(&Struct(&[
            all(I32),      // partition
            since(2, I32), // current leader epoch
            all(I32),      // leader epoch
        ]))),
    ]))),
];

const DESCRIBE_ACLS: &[Field] = &[
    all(I8),      // resource type
    all(String),  // resource
    since(1, I8), // pattern type
    all(String),  // principal
    all(String),  // host
    all(I8),      // operation
    all(I8),      // permission
];

const DESCRIBE_CONFIGS: &[Field] = &[
    all(Array(&Struct(&[
        all(I8),             // resource type
        all(String),         // resource
        all(Array(&String)), // keys
    ]))),
    since(1, Bool), // include synonyms
    since(3, Bool), // include documentation
];

const ALTER_CONFIGS: &[Field] = &[
    all(Array(&Struct(&[
        all(I8),     // resource type
        all(String), // resource
        all(CONFIGS),
    ]))),
    all(Bool), // validate only
];

const DESCRIBE_LOG_DIRS: &[Field] = &[all(Array(&NAME_AND_PARTITIONS))];

const CREATE_PARTITIONS: &[Field] = &[
    all(Array(&Struct(&[
        all(String), // topic
        all(I32),    // count
        all(Array(&Struct(&[
            all(Array(&I32)), // brokers
        ]))),
    ]))),
    all(I32),  // timeout
    all(Bool), // validate only
];

const DELETE_GROUPS: &[Field] = &[
    all(Array(&String)), // groups
];

const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    all(Array(&Struct(&[
        all(I8),     // resource type
        all(String), // resource
        all(Array(&Struct(&[
            all(String), // name
            all(I8),     // operation
            all(String), // value
        ]))),
    ]))),
    all(Bool), // validate only
];

const OFFSET_DELETE: &[Field] = &[
    all(String), // group
    all(Array(&Struct(&[
        all(String), // topic
        all(Array(&Struct(&[
            all(I32), // partition
        ]))),
    ]))),
];

const DESCRIBE_CLUSTER: &[Field] = &[
    all(Bool),      // include operations
    since(1, I8),   // endpoint type
    since(2, Bool), // include fenced
];

/// Told of every length on the way: the tests make each of them a lie.
pub(super) trait Watch {
    fn length(&mut self, _at: usize, _form: Form) {}
}

impl Watch for () {}

/// How a length is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Short,
    Long,
    Varint,
}

/// Walks over the body of a request from its first to its last field. What follows is not looked at.
///
/// # Errors
/// A length or count that the bytes do not back, tagged fields beyond their limit, a message that would cost too much
/// memory.
pub(super) fn check(
    fields: &[Field],
    version: i16,
    flexible: bool,
    body: &[u8],
    watch: &mut impl Watch,
) -> Result<(), DecodeError> {
    let mut walk = Walk { reader: Reader::new(body), version, flexible, watch };
    walk.fields(fields)
}

struct Walk<'a, W> {
    reader: Reader<'a>,
    version: i16,
    flexible: bool,
    watch: &'a mut W,
}

impl<W: Watch> Walk<'_, W> {
    fn fields(&mut self, fields: &[Field]) -> Result<(), DecodeError> {
        for field in fields {
            if field.is_in(self.version) {
                self.value(field.kind)?;
            }
        }
        self.tags()
    }

    fn value(&mut self, kind: Kind) -> Result<(), DecodeError> {
        match kind {
            Bool => self.reader.skip(1),
            Kind::Fixed(bytes) => self.reader.skip(bytes),
            String => {
                self.length(Form::Short);
                self.reader.string_bytes(self.flexible).map(|_| ())
            }
            Bytes => {
                self.length(Form::Long);
                self.reader.byte_string(self.flexible).map(|_| ())
            }
            Array(element) => {
                self.length(Form::Long);
                let cost = Element {
                    wire_bytes_min: element.wire_bytes_min(self.version, self.flexible),
                    heap_bytes: element.heap_bytes(),
                };
                let count = self.reader.count(self.flexible, cost)?.unwrap_or(0);
                (0..count).try_for_each(|_| self.value(*element))
            }
            Struct(fields) => self.fields(fields),
            Lifted(kind, _) => self.value(*kind),
        }
    }

    /// The codec keeps unknown tagged fields in a tree per struct, whose nodes are large.
    fn tags(&mut self) -> Result<(), DecodeError> {
        const NODE_BYTES: usize = 640;
        const FIELDS_PER_NODE: usize = 5;
        if !self.flexible {
            return Ok(());
        }
        self.length(Form::Varint);
        let count = self.reader.tag_count(true)?;
        self.reader.charge(count.div_ceil(FIELDS_PER_NODE) * NODE_BYTES)?;
        (0..count).try_for_each(|_| self.reader.tag().map(|_| ()))
    }

    fn length(&mut self, plain: Form) {
        let form = if self.flexible { Form::Varint } else { plain };
        self.watch.length(self.reader.at(), form);
    }
}

impl Field {
    pub(super) fn is_in(&self, version: i16) -> bool {
        (self.from..=self.to).contains(&version)
    }
}

impl Kind {
    /// The fewest bytes that encode such a value.
    fn wire_bytes_min(self, version: i16, flexible: bool) -> usize {
        match self {
            Bool => 1,
            Kind::Fixed(bytes) => bytes,
            String | Bytes | Array(_) if flexible => 1,
            String => 2,
            Bytes | Array(_) => 4,
            Struct(fields) => {
                let fields = fields.iter().filter(|field| field.is_in(version));
                let bytes: usize =
                    fields.map(|field| field.kind.wire_bytes_min(version, flexible)).sum();
                bytes + usize::from(flexible)
            }
            Lifted(kind, _) => kind.wire_bytes_min(version, flexible),
        }
    }

    /// At least the bytes of such a value once the codec has decoded it, without what it points to.
    fn heap_bytes(self) -> usize {
        const STRING_BYTES: usize = 32;
        const VEC_BYTES: usize = 24;
        const TAGS_BYTES: usize = 24;
        match self {
            Bool => 1,
            Kind::Fixed(bytes) => bytes,
            String | Bytes => STRING_BYTES,
            Array(_) => VEC_BYTES,
            Struct(fields) => {
                let bytes: usize = fields.iter().map(|field| field.kind.heap_bytes()).sum();
                (bytes + TAGS_BYTES).next_multiple_of(align_of::<usize>())
            }
            Lifted(kind, bytes) => kind.heap_bytes() + bytes,
        }
    }
}
